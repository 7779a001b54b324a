"""Looking at a model before training it: was it made to read records out of the update?

`View` is a model looked at once; each test is a function that takes a view and yields `Sign`s.
"""

from medbreach.inspection.battery import TESTS, inspect_model
from medbreach.inspection.sent import Agreed, inspect_sent
from medbreach.inspection.signs import Inspection, Sign

__all__ = ["TESTS", "Agreed", "Inspection", "Sign", "inspect_model", "inspect_sent"]
