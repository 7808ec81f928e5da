"""One thing known of a run, and how surely."""

from dataclasses import dataclass
from typing import Literal

Certainty = Literal["recorded", "logged", "inferred", "likely", "unknown"]
SURE = 0.05  # chance of an error up to which something counts as inferred, not only as likely
IF_AS_REFERENCE = "its keys are not the reference's: likely, if it logs as the reference does"


@dataclass(frozen=True)
class Finding:
    """One thing known of a run.

    Attributes:
        text: to read.
        certainty: `recorded` in config or provenance; `logged`: stands in the log; `inferred` from
            the log's numbers, wrong with a chance below SURE; `likely`, if the code did as the
            reference does; `unknown`.
        because: what an inference rests on.
        value: to compare; None where it is not known to one value.
    """

    text: str
    certainty: Certainty
    because: str = ""
    value: object = None


UNKNOWN = Finding("unknown", "unknown")
