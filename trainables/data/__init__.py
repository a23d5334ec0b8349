"""Data sets: read, split, decoded once, changed at random.

albumentations asks the network for a newer version when it is imported, unless this says no; so it comes first.
"""

import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
