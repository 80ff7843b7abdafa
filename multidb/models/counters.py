"""Counters: how often something was called, a day."""

from multidb.models.entity import Model

__all__ = ["EndpointCount"]


class EndpointCount(Model):
    """How often an endpoint was called on a day."""

    endpoint: str
    count: int
