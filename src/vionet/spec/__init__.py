"""Facts only: numbers and layouts of virtio, virtio-net, vhost-user and the packets they carry.

Nothing here decides anything.  Names are the specifications' own, verbatim.
"""
