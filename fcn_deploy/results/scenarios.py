"""What `bench` can measure, by name; the command line asks for these before it loads anything."""

#: Where the clock starts and ends: on the GPU, in memory, or with the files on the disk.
DEVICE, HOST, END_TO_END = "device", "host", "end-to-end"
TIERS = (DEVICE, HOST, END_TO_END)
#: What MLPerf calls the ways to ask.
SINGLE_STREAM, OFFLINE, SERVER = "single-stream", "offline", "server"
SCENARIOS = (SINGLE_STREAM, OFFLINE, SERVER)
