"""Real PostgreSQL, MongoDB and Redis servers for one directory: started, watched, stopped.

Two back ends behind one protocol: `EmbeddedStack` runs the servers as processes of this
machine, `ComposeStack` drives docker compose. All calls block; from async code use
`asyncio.to_thread`.
"""

from multidb.stack.backends import docker_engine_answers, open_stack
from multidb.stack.compose import ComposeStack
from multidb.stack.embedded import EmbeddedStack, running
from multidb.stack.protocol import SERVERS, STORE_OF, Backend, Progress, ServerName, ServerStatus, Stack

__all__ = [
    "SERVERS",
    "STORE_OF",
    "Backend",
    "ComposeStack",
    "EmbeddedStack",
    "Progress",
    "ServerName",
    "ServerStatus",
    "Stack",
    "docker_engine_answers",
    "open_stack",
    "running",
]
