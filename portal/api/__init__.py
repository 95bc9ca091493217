"""Predictions by HTTP: `router` has every route below ``/api/v1``.

The clients of the thesis's service work unchanged: ``POST /api/v1/predict/nnUNet`` with one file in the field `image`.
Requests are jobs of the road; this room takes uploads in, waits or does not, and hands out what came of them.
"""

from portal.api.routes import router

__all__ = ["router"]
