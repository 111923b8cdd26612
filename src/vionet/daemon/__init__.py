"""Everything of a running fabric put together: ports, sockets, signals, the control socket."""
