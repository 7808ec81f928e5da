"""`python -m detrnb` is the command `detrnb`; `torchrun -m detrnb train` starts it in processes."""

import sys

from detrnb.commands import main

if __name__ == "__main__":
    sys.exit(main())
