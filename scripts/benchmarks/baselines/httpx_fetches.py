"""Fetches of half-hours the idiomatic way: a loop over meters with the stock httpx client, which stores nothing.

`python -m scripts.benchmarks.baselines.httpx_fetches BASE_URL API_KEY FROM TO SECONDS` reads the meters of an Octopus
account, fetches them one after the other, page by page, and prints the half-hours a second.
"""

import asyncio
import itertools
import sys
import time

import httpx

PAGE_SIZE = 5000


async def fetch_all(base_url: str, api_key: str, start: str, end: str, seconds: float) -> float:
    async with httpx.AsyncClient(auth=(api_key, ""), timeout=60) as client:
        account = (await client.get(f"{base_url}/accounts/A-5EED0001/")).json()
        points = [point for home in account["properties"] for point in home["electricity_meter_points"]]
        count, started = 0, time.perf_counter()
        for point in itertools.cycle(points):
            serial = point["meters"][0]["serial_number"]
            url = f"{base_url}/electricity-meter-points/{point['mpan']}/meters/{serial}/consumption/"
            params: dict[str, str | int] | None = {
                "period_from": start,
                "period_to": end,
                "page_size": PAGE_SIZE,
                "order_by": "period",
            }
            while url:
                response = await client.get(url, params=params)
                response.raise_for_status()
                page = response.json()
                count += len(page["results"])
                url, params = page["next"], None
            if time.perf_counter() - started > seconds:
                break
        return count / (time.perf_counter() - started)


def main() -> None:
    base_url, api_key, start, end, seconds = sys.argv[1:6]
    print(asyncio.run(fetch_all(base_url, api_key, start, end, float(seconds))))


if __name__ == "__main__":
    main()
