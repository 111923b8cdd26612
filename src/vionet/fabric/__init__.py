"""Switch and wire: ports, policy, and the worker thread that runs the engine."""
