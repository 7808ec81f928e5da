"""The drills by name, in the table's order."""

from soak.data import DATA
from soak.disk import DISK
from soak.files import FILES
from soak.kill import KILL
from soak.long import LONG
from soak.notebooks import NOTEBOOKS
from soak.numbers import NUMBERS
from soak.trust import TRUST
from soak.twice import TWICE
from soak.wide import WIDE

ORDER = (KILL, FILES, NUMBERS, DISK, DATA, TWICE, NOTEBOOKS, LONG, WIDE, TRUST)
DRILLS = {drill.name.split()[0]: drill for drill in ORDER}
