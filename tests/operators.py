"""Helpers for tests of the operators' commands: accounts without a command each, and running the program."""

from tests.services.forked import VOLTWIRE, Piped
from tests.system.deployment import Deployment


async def fresh_key(served: Deployment) -> str:
    """The API key of a new account."""
    return (await served.account()).key


async def start(served: Deployment, *arguments: str, key: str | None = None) -> Piped:
    """`voltwire …`, its key in the environment."""
    environment = served.environment | ({"VOLTWIRE_API_KEY": key} if key else {})
    return await Piped.start(VOLTWIRE, *arguments, environment=environment)


async def run(served: Deployment, *arguments: str, key: str | None = None) -> tuple[int | None, str, str]:
    """Exit code, output and errors of `voltwire …`."""
    process = await start(served, *arguments, key=key)
    output, errors = await process.communicate()
    return process.returncode, output.decode(), errors.decode()
