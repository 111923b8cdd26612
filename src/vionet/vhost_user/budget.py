"""How often something may happen on a peer's account: so many at once, so many a second."""

import time


class Budget:
    """A bucket of tokens, full at the start."""

    def __init__(self, burst: int, per_second: float) -> None:
        self._burst, self._per_second = burst, per_second
        self._left = float(burst)
        self._filled = time.monotonic()

    def take(self) -> bool:
        """Spend one; false where there is none left."""
        now = time.monotonic()
        self._left = min(self._left + (now - self._filled) * self._per_second, self._burst)
        self._filled = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
