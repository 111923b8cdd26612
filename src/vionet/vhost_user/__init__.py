"""vhost-user, both ends: wire format and sessions without input or output, then the sockets."""
