"""One backend each, behind one contract (see ``base.py``)."""
