"""The live page: a client of the control socket that serves browsers (extra `vionet[web]`)."""
