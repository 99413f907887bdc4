"""One open runner behind HTTP and gRPC: Open Inference (KServe v2), batching, limits, draining.

 uvicorn ─▶ protocol (limits of connections, heads, time) ─▶ middleware (id, token, metrics, log)
   ─▶ v2 | pictures | page ─▶ Service.infer ─▶ Batcher ─▶ one thread ─▶ runner.run
                                      grpc_endpoint ─▶ Service.infer

Everything but ``runner.run`` happens on the event loop, so that no state needs a lock.
"""
