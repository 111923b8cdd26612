"""What a local interface's guest asks its network for: DHCP, router advertisements (sans-IO)."""
