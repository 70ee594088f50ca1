"""Sets of sequence numbers, kept as ranges: a stream without holes takes no more memory however long it is."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator


class SequenceRanges:
    """A set of whole numbers. `add` changes it; everything else gives another one."""

    __slots__ = ("_highs", "_lows")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._lows: list[int] = []
        self._highs: list[int] = []
        for low, high in sorted(ranges):
            if low > high:
                continue
            if self._highs and low <= self._highs[-1] + 1:
                self._highs[-1] = max(self._highs[-1], high)
            else:
                self._lows.append(low)
                self._highs.append(high)

    def add(self, number: int) -> bool:
        """Take a number in; False if it was there already."""
        at = bisect_left(self._highs, number)  # the first range that does not end before it
        if at < len(self._lows) and self._lows[at] <= number:
            return False
        follows = at > 0 and self._highs[at - 1] == number - 1
        leads = at < len(self._lows) and self._lows[at] == number + 1
        if follows and leads:
            self._highs[at - 1] = self._highs.pop(at)
            del self._lows[at]
        elif follows:
            self._highs[at - 1] = number
        elif leads:
            self._lows[at] = number
        else:
            self._lows.insert(at, number)
            self._highs.insert(at, number)
        return True

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Lowest first, both ends included."""
        return tuple(zip(self._lows, self._highs, strict=True))

    @property
    def first(self) -> int:
        """The lowest; 0 if there is none."""
        return self._lows[0] if self._lows else 0

    @property
    def last(self) -> int:
        """The highest; 0 if there is none."""
        return self._highs[-1] if self._highs else 0

    def __len__(self) -> int:
        return sum(high - low + 1 for low, high in zip(self._lows, self._highs, strict=True))

    def __bool__(self) -> bool:
        return bool(self._lows)

    def __contains__(self, number: int) -> bool:
        at = bisect_left(self._highs, number)
        return at < len(self._lows) and self._lows[at] <= number

    def __iter__(self) -> Iterator[int]:
        for low, high in self.ranges():
            yield from range(low, high + 1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SequenceRanges) and self.ranges() == other.ranges()

    def __hash__(self) -> int:
        return hash(self.ranges())

    def __repr__(self) -> str:
        return f"Numbers({self})"

    def __str__(self) -> str:
        return ", ".join(str(low) if low == high else f"{low}..{high}" for low, high in self.ranges())

    def __or__(self, other: SequenceRanges) -> SequenceRanges:
        return SequenceRanges([*self.ranges(), *other.ranges()])

    def __sub__(self, other: SequenceRanges) -> SequenceRanges:
        left: list[tuple[int, int]] = []
        holes = list(other.ranges())
        for begin, end in self.ranges():
            low = begin
            for hole_low, hole_high in holes[bisect_left(other._highs, begin) :]:
                if hole_low > end:
                    break
                left.append((low, hole_low - 1))
                low = hole_high + 1
            left.append((low, end))
        return SequenceRanges(left)

    def __and__(self, other: SequenceRanges) -> SequenceRanges:
        return self - (self - other)

    def up_to(self, number: int) -> SequenceRanges:
        """Those that are at most `number`."""
        return SequenceRanges((low, min(high, number)) for low, high in self.ranges())

    def above(self, number: int) -> SequenceRanges:
        """Those that are more than `number`."""
        return SequenceRanges((max(low, number + 1), high) for low, high in self.ranges())
