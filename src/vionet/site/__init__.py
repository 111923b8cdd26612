"""What one file describes: machines, switches, ports, local interfaces.  Read, judged, laid out."""
