"""The AWS test bed: an emulator of the APIs, a fault proxy, and a reconciler that boots what was launched."""
