"""Libraries that print patient data are kept silent (I4).

pynetdicom logs whole data sets and command sets; pydicom puts values into warnings and exception texts.  Their loggers
end here at every level, and their warnings are dropped.  What the node itself has to say it says through structlog,
with fixed event names and opaque ids.
"""

from __future__ import annotations

import logging
import warnings

from pynetdicom import _config

_LOGGERS = ("pynetdicom", "pydicom")


def silence_libraries() -> None:
    """Silence pydicom and pynetdicom in this process, and spare the work of formatting what nobody reads."""
    _config.LOG_HANDLER_LEVEL = "none"
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
        logger.setLevel(logging.CRITICAL + 1)
        warnings.filterwarnings("ignore", module=rf"{name}(\..*)?$")
