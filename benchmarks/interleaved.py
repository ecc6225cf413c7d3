"""Times things in turns, so that a load on the machine meets all of them, and tells whether there was one."""

import os
import statistics
import time

# So much of a core taken by other programs is said beside the figures.
NOTABLE_LOAD = 0.1


def time_in_turns(calls, rounds, warmups=2):
    """Times each call once a round, every other round in reverse order.

    Args:
        calls: A dictionary of names to functions without arguments, which return when their work is done.
        rounds: How many rounds are timed.
        warmups: How many rounds are not timed, before.

    Returns:
        A dictionary of the names to as many seconds as there are rounds.
    """
    seconds = {name: [] for name in calls}
    for number in range(-warmups, rounds):
        for name in list(calls) if number % 2 else reversed(calls):
            begin = time.perf_counter()
            calls[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def summarize(seconds, base):
    """A row for each name: the median, its spread, and its ratio to `base`.

    Args:
        seconds: What `time_in_turns` gave.
        base: The name of what the others are compared with; a ratio above 1 is slower than that.

    Returns:
        A list of dictionaries: `name`, `value`, `spread` (the distance of the quartiles, relative to the median),
        `ratio` (the median of the ratios of single rounds), `lowest_ratio` and `highest_ratio` (their quartiles).
    """
    rows = []
    for name, values in seconds.items():
        low, median, high = _quartiles(values)
        ratios = _quartiles([value / other for value, other in zip(values, seconds[base], strict=True)])
        rows.append(
            {
                "name": name,
                "value": median,
                "spread": (high - low) / median,
                "ratio": ratios[1],
                "lowest_ratio": ratios[0],
                "highest_ratio": ratios[2],
            }
        )
    return rows


def compare(values, middle):
    """A row for each name: the middle of its values, how far apart they are, and its ratio to the first name's.

    Args:
        values: A dictionary of names to lists of numbers.
        middle: What the middle is, for example `statistics.median`.

    Returns:
        A list of dictionaries: `name`, `value`, `spread` (of all values, relative to the middle) and `ratio`.
    """
    middles = {name: middle(of_name) for name, of_name in values.items()}
    first = next(iter(middles.values()))
    return [
        {
            "name": name,
            "value": value,
            "spread": (max(values[name]) - min(values[name])) / value,
            "ratio": value / first,
        }
        for name, value in middles.items()
    ]


def _quartiles(values):
    if len(values) < 2:
        return values * 3
    return statistics.quantiles(values, n=4, method="inclusive")


class OtherLoad:
    """Measures, between its beginning and its end, how many cores other programs used.

    Attributes:
        cores: How many, a float; None on a system that does not say.
    """

    def __enter__(self):
        self.cores = None
        self._begin = self._read()
        return self

    def __exit__(self, *_):
        if self._begin is not None:
            (wall, busy, own), end = self._begin, self._read()
            self.cores = max(0.0, ((end[1] - busy) - (end[2] - own)) / (end[0] - wall))

    def note(self):
        """A sentence for below a table, or None."""
        if self.cores is not None and self.cores > NOTABLE_LOAD:
            return f"NOT A QUIET MACHINE: other programs used {self.cores:.1f} cores while this was measured."
        return None

    @staticmethod
    def _read():
        try:
            with open("/proc/stat", encoding="ascii") as file:
                # What a hypervisor took for other machines counts, too.
                user, nice, system, _, _, interrupts, soft, stolen, *_ = map(int, file.readline().split()[1:])
        except (OSError, ValueError):
            return None
        busy = (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        return time.monotonic(), busy, own.user + own.system + own.children_user + own.children_system
