"""The LUNA API: the thesis's paths, so that an existing client works unchanged; and the same by messages of a broker.

Accounts are those of the portal and analyses those of `/api/v1/analyses`: this room translates, and gives out tokens.
"""

from portal.luna.desk import LunaDesk
from portal.luna.keys import NAME as KEY_FILE
from portal.luna.keys import KeyFile
from portal.luna.routes import router
from portal.luna.tokens import Tokens

__all__ = ["KEY_FILE", "KeyFile", "LunaDesk", "Tokens", "router"]
