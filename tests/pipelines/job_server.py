"""A job server that speaks as Ray's dashboard does, and fails as it is told: for tests of the client's side in seconds."""

import asyncio
import threading
import time
from contextlib import contextmanager

from aiohttp import web

from tests.gan_core.ranks import free_port


class JobServer:
    """What it was sent, and how it behaves: `cuts` are the pieces of output after which connections break, one each."""

    def __init__(self):
        self.port, self.token = free_port(), None
        self.jobs, self.packages, self.stops, self.headers = {}, {}, [], []
        self.output, self.cuts = ["first\n", "second\n", "third\n"], []
        self.ending = {"status": "SUCCEEDED", "driver_exit_code": 0}
        self.hangs = self.forgets = self.silent = self.loses_answer = False
        self.refuses_stops, self.submitting_seconds = 0, 0.0  # so many stops fail; a request is taken, and answered after so long

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self):
        loop, ready = asyncio.new_event_loop(), threading.Event()

        async def serve():
            application = web.Application(middlewares=[self._let_in], client_max_size=2**27)
            application.add_routes(
                [
                    web.get("/api/version", self._version),
                    web.get("/api/packages/{protocol}/{name}", self._has),
                    web.put("/api/packages/{protocol}/{name}", self._put),
                    web.post("/api/jobs/", self._submit),
                    web.get("/api/jobs/{job}", self._info),
                    web.post("/api/jobs/{job}/stop", self._stop),
                    web.get("/api/jobs/{job}/logs", self._logs),
                    web.get("/api/jobs/{job}/logs/tail", self._tail),
                ]
            )
            runner = web.AppRunner(application, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            ready.set()
            while not self._over.is_set():
                await asyncio.sleep(0.02)
            await runner.cleanup()

        self._over = threading.Event()
        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
        thread.start()
        assert ready.wait(10)
        try:
            yield self
        finally:
            self._over.set()
            thread.join(10)
            loop.close()

    @web.middleware
    async def _let_in(self, request, handler):
        self.headers.append(dict(request.headers))
        given = request.headers.get("Authorization")
        if self.token and not given:
            return web.Response(status=401, text="Unauthorized: Missing authentication token")
        if self.token and given != f"Bearer {self.token}":
            return web.Response(status=403, text="Forbidden: Invalid authentication token")
        return await handler(request)

    async def _version(self, _):
        while self.hangs and not self._over.is_set():
            await asyncio.sleep(0.05)
        return web.json_response({"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""})

    async def _has(self, request):
        return web.Response(status=200 if request.match_info["name"] in self.packages else 404)

    async def _put(self, request):
        self.packages[request.match_info["name"]] = await request.read()
        return web.Response()

    async def _submit(self, request):
        asked = await request.json()
        if asked["submission_id"] in self.jobs:
            return web.Response(status=400, text=f"ValueError: Job with submission_id {asked['submission_id']} already exists. Please ...")
        self.jobs[asked["submission_id"]] = asked
        last = time.monotonic() + self.submitting_seconds
        while time.monotonic() < last and not self._over.is_set():
            await asyncio.sleep(0.05)
        if self.loses_answer:
            request.transport.close()
        return web.json_response({"job_id": asked["submission_id"], "submission_id": asked["submission_id"]})

    async def _info(self, request):
        job = request.match_info["job"]
        if job not in self.jobs or self.forgets:
            return web.Response(status=404, text=f"Job {job} does not exist")
        over = not self.cuts or self.silent or self.stops
        state = self.ending if over else {"status": "RUNNING"}
        asked = self.jobs[job]
        return web.json_response({"type": "SUBMISSION", "submission_id": job, **{k: asked[k] for k in ("entrypoint", "metadata")}, **state})

    async def _stop(self, request):
        if self.refuses_stops:
            self.refuses_stops -= 1
            return web.Response(status=500, text="the agent is away")
        self.stops.append(request.match_info["job"])
        self.ending = {"status": "STOPPED"}
        return web.json_response({"stopped": True})

    async def _logs(self, request):
        return web.json_response({"logs": "".join(self.output)})

    async def _tail(self, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        pieces = self.cuts.pop(0) if self.cuts else len(self.output)
        for piece in self.output[:pieces]:
            await socket.send_str(piece)
        if self.silent:
            while not self._over.is_set():
                await asyncio.sleep(0.05)
        if pieces < len(self.output):
            await asyncio.sleep(0.1)
            request.transport.abort()
        return socket
