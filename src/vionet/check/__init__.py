"""The conformance tester: a driver of its own and one check per rule; never imports the engine."""
