"""What can be said of this machine's kernels: ``doctor``'s sentence on what ``stages.core.numerics`` has found."""

from models.parts.convolutions import KNOWN_FAULTS
from stages.core import numerics


def condition() -> tuple[bool, str]:
    """Whether nothing is wrong, and what was looked at: kept ones, and anew those that are wrong on some processor."""
    known = numerics.known()
    wrong = known.wrong | {str(one): fault for one in KNOWN_FAULTS if (fault := numerics.look(one))}
    counts = " and ".join(f"{count} in {dtype}" for dtype, count in sorted(known.looked_at.items())) or "none yet"
    if not wrong:
        return True, f"convolutions looked at: {counts}; none is wrong"
    first, fault = next(iter(wrong.items()))
    return False, f"{first}: {fault} ({len(wrong)} like this; looked at: {counts})"
