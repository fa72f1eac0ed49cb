"""Cron schedules: five fields, names, ranges, steps, and the @macros. Pure.

Day of month and day of week are alternatives when both are restricted, as cron(8) has it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

_MACROS = {
    "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}  # fmt: skip
_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}
_DAYS = {name: number for number, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_SEARCH_YEARS = 5  # "30 2 29 2 *" comes within four


@dataclass(frozen=True, slots=True)
class Schedule:
    """The minutes at which something is due. ``every`` is set for "@every 5m" alone."""

    minutes: frozenset[int] = frozenset()
    hours: frozenset[int] = frozenset()
    days: frozenset[int] = frozenset()
    months: frozenset[int] = frozenset()
    weekdays: frozenset[int] = frozenset()
    any_day: bool = True
    any_weekday: bool = True
    every: timedelta | None = None

    def matches_date(self, moment: datetime) -> bool:
        """Return whether something may be due on this day."""
        if moment.month not in self.months:
            return False
        by_day = moment.day in self.days
        by_weekday = (moment.weekday() + 1) % 7 in self.weekdays
        if self.any_day or self.any_weekday:
            return by_day and by_weekday
        return by_day or by_weekday


def parse_schedule(text: str) -> Schedule:
    """Return the schedule. Raises ValueError and names the field that is wrong."""
    text = text.strip()
    if text.startswith("@every "):
        return Schedule(every=_duration(text[7:].strip()))
    fields = _MACROS.get(text.lower(), text).split()
    if len(fields) != 5:
        raise ValueError(f"schedule {text!r} has {len(fields)} fields, not 5")
    weekdays = _field(fields[4], 0, 7, _DAYS, "day of week")
    return Schedule(
        minutes=_field(fields[0], 0, 59, {}, "minute"),
        hours=_field(fields[1], 0, 23, {}, "hour"),
        days=_field(fields[2], 1, 31, {}, "day of month"),
        months=_field(fields[3], 1, 12, _MONTHS, "month"),
        weekdays=frozenset(d % 7 for d in weekdays),
        any_day=fields[2][0] in "*?",
        any_weekday=fields[4][0] in "*?",
    )


def _field(text: str, low: int, high: int, names: dict[str, int], what: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        try:
            first, last = _span(span, low, high, names, bool(step))
            stride = int(step) if step else 1
        except ValueError:
            raise ValueError(f"{what} {part!r} cannot be read") from None
        if stride < 1 or not low <= first <= last <= high:
            raise ValueError(f"{what} {part!r} is not within {low}-{high}")
        found.update(range(first, last + 1, stride))
    return frozenset(found)


def _span(text: str, low: int, high: int, names: dict[str, int], stepped: bool) -> tuple[int, int]:
    if text in ("*", "?"):
        return low, high if high != 7 else 6
    first, dash, last = text.partition("-")
    start = _number(first, names)
    if dash:
        return start, _number(last, names)
    return start, high if stepped else start


def _number(text: str, names: dict[str, int]) -> int:
    return names[text.lower()] if text.lower() in names else int(text)


def _duration(text: str) -> timedelta:
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|s)", text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise ValueError(f"duration {text!r} cannot be read")
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    seconds = sum(float(n) * units[u] for n, u in parts)
    return timedelta(seconds=max(1, int(seconds)))


def next_after(schedule: Schedule, moment: datetime, zone: tzinfo) -> datetime | None:
    """Return the first due moment after ``moment``, in UTC's terms of ``moment``; None within five years.

    Times are those of ``zone``. A time that a clock change skips does not come that day.
    """
    if schedule.every is not None:
        return moment.replace(microsecond=0) + schedule.every
    local = moment.astimezone(zone)
    day = local.replace(hour=0, minute=0, second=0, microsecond=0)
    for _ in range(366 * _SEARCH_YEARS):
        if schedule.matches_date(day):
            for hour in sorted(schedule.hours):
                for minute in sorted(schedule.minutes):
                    due = _at(day, hour, minute, zone)
                    if due is not None and due.timestamp() > moment.timestamp():
                        return due.astimezone(moment.tzinfo)
        naive = day.replace(tzinfo=None) + timedelta(days=1)
        day = naive.replace(tzinfo=zone)
    return None


def _at(day: datetime, hour: int, minute: int, zone: tzinfo) -> datetime | None:
    """Return that time of that day; None when the day has no such time."""
    due = day.replace(hour=hour, minute=minute, tzinfo=zone)
    back = due.astimezone(UTC).astimezone(zone)
    return due if (back.hour, back.minute) == (hour, minute) else None
