"""The drills by name, in the table's order."""

from soak.kill import KILL

DRILLS = {drill.name: drill for drill in (KILL,)}
