#!/usr/bin/python3 -SE
"""A cluster that is not there, for sweeps of more streams than this machine could train.

    simulated.py serve FOLDER SEED SLOTS TEMPLATE [FATE]   serves until FOLDER/stop is there
    sbatch, squeue, scancel, sinfo                  (links to this file, with SIMULATED_SLURM=FOLDER) ask it

It answers in the words of Slurm 22.05, as recorded from a real one: `squeue --Format` with columns that end in `|`, exit
codes as wait(2) has them, `Invalid job id specified`. A job is not trained: its events are those that a worker writes, and
its SAEs are copies of TEMPLATE. Jobs wait, are preempted and put back, lose their node, end in an error, or run into their
time limit, by chance; now and then a program does not answer. With FATE, all jobs end in one way, and all programs answer:
`blind` (its machine does not see the folder), `memory`, or `garbled` (as sbatch's answer). FOLDER/calls has a line for each call: its time
and the program.
"""

import json
import os
import random
import shutil
import socket
import sys
import time

LIMIT, CHANCE = 0.05, 0.3


def ask(folder: str, words: list[str]) -> int:
    """What one of Slurm's programs does."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(folder + "/socket")
        client.sendall(json.dumps(words).encode() + b"\n")
        with client.makefile() as file:
            answer = json.load(file)
    sys.stdout.write(answer["stdout"])
    sys.stderr.write(answer["stderr"])
    return answer["code"]


class Job:
    def __init__(self, number: int, script: str):
        self.number, self.script = number, script
        with open(script) as file:
            lines = file.read().splitlines()
        options = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH --")]
        self.options = dict(option.split("=", 1) for option in options if "=" in option)
        self.name = self.options["job-name"]
        self.folder = os.path.dirname(script)
        self.state, self.reason, self.node = "PENDING", "Priority", ""
        self.restarts = self.status = 0
        self.ready = self.ends = 0.0
        self.fate = ""

    def line(self) -> str:
        columns = [self.number, self.name, self.state, self.restarts, self.status, self.node, self.reason]
        return "".join(f"{column}|" for column in columns)


class Worker:
    """Writes what a worker would, up to a share of the whole."""

    def __init__(self, job: Job):
        with open(job.folder + "/order.json") as file:
            self.order = json.load(file)
        self.attempt = self.order["attempt"] + job.restarts
        self.path = self.order["events"]
        self.seq, self.done = self.order["last_event_seq"], set()
        text = ""
        if os.path.exists(self.path):
            with open(self.path) as file:
                text = file.read()
        if text and not text.endswith("\n"):
            # Half a line of one that was killed.
            text = text[: text.rfind("\n") + 1]
            with open(self.path, "w") as file:
                file.write(text)
        for line in text.splitlines():
            event = json.loads(line)
            self.seq = max(self.seq, event["seq"])
            if event["event"] == "checkpoint" and event["is_final"] and event["attempt"] >= self.order["attempt"]:
                self.done.add(event["job_id"])

    def event(self, event: str, **fields) -> str:
        self.seq += 1
        head = {"seq": self.seq, "time_ms": int(time.time() * 1000), "attempt": self.attempt, "event": event}
        return json.dumps({**head, **fields}) + "\n"

    def begin(self, job: Job) -> None:
        with open(job.folder + "/slurm.here", "w") as file:
            file.write(f"{job.number} {job.restarts} {job.node} {int(time.time())}\n")
        started = self.event("started", device="cpu", libtorch="2.13.0", pid=1, host=job.node)
        self.write(started + self.event("ready", first_step=0, n_steps=8, tokens_per_step=512))

    def step(self, step: int) -> None:
        self.write(self.event("progress", step=step, n_tokens=512, elapsed_ms=10))

    def finish(self, template: str) -> None:
        for job in self.order["jobs"]:
            job_id = job["job"]["job_id"]
            if job_id in self.done:
                continue
            folder = os.path.join(self.order["runs_dir"], job["dir"])
            shutil.copytree(template, folder, dirs_exist_ok=True)
            self.write(self.event("checkpoint", job_id=job_id, step=8, path=job["dir"], is_final=True))
        self.write(self.event("finished"))

    def fail(self) -> None:
        self.write(self.event("failed", kind="internal", message="simulated", hint=None))

    def write(self, text: str) -> None:
        with open(self.path, "a") as file:
            file.write(text)

    def tear(self) -> None:
        self.write(self.event("progress", step=3, n_tokens=512, elapsed_ms=10)[:20])


class Cluster:
    def __init__(self, folder: str, seed: int, slots: int, template: str, fate: str = ""):
        self.folder, self.slots, self.template, self.fate = folder, slots, template, fate
        self.random = random.Random(seed)
        self.jobs: dict[int, Job] = {}
        self.workers: dict[int, Worker] = {}

    def tick(self) -> None:
        now = time.time()
        running = [job for job in self.jobs.values() if job.state == "RUNNING"]
        for job in running:
            if job.ends <= now:
                self.end(job)
        free = self.slots - sum(job.state == "RUNNING" for job in running)
        for job in self.jobs.values():
            if free > 0 and job.state == "PENDING" and job.ready <= now:
                self.start(job, now)
                free -= 1

    def start(self, job: Job, now: float) -> None:
        fates = ["done"] * 70 + ["requeue"] * 12 + ["cancelled"] * 4 + ["node"] * 5 + ["limit"] * 4 + ["error"] * 5
        job.fate = {"": self.random.choice(fates), "garbled": "done"}.get(self.fate, self.fate)
        job.state, job.reason, job.node = "RUNNING", "None", f"n{self.random.randrange(self.slots)}"
        job.ends = now + self.random.uniform(0.1, 0.6)
        if job.fate == "blind":
            return
        worker = self.workers[job.number] = Worker(job)
        worker.begin(job)
        worker.step(2)

    def end(self, job: Job) -> None:
        if job.fate == "blind":
            job.state, job.status, job.reason = "FAILED", 4021, "JobLaunchFailure"
            return
        worker = self.workers[job.number]
        if job.fate == "done":
            worker.finish(self.template)
            job.state, job.status = "COMPLETED", 0
        elif job.fate == "error":
            worker.fail()
            job.state, job.status, job.reason = "FAILED", 1 << 8, "NonZeroExitCode"
        elif job.fate == "requeue":
            worker.tear()
            job.state, job.reason, job.node = "PENDING", "BeginTime", ""
            job.restarts += 1
            job.ready = time.time() + self.random.uniform(0.1, 1.0)
        else:
            worker.tear()
            states = {"cancelled": "PREEMPTED", "node": "NODE_FAIL", "limit": "TIMEOUT", "memory": "OUT_OF_MEMORY"}
            job.state, job.status = states[job.fate], 15

    def answer(self, words: list[str]) -> tuple[str, str, int]:
        program, *args = words
        with open(self.folder + "/calls", "a") as file:
            file.write(f"{time.time():.3f} {program} {' '.join(args)[:60]}\n")
        if program == "sinfo":
            return "main*|1|(null)|infinite\n", "", 0
        # A controller that is busy: what it was asked for is done or not, and the answer is lost.
        if self.fate:
            return getattr(self, program)(args)
        is_lost, is_done = self.random.random() < LIMIT, self.random.random() < CHANCE
        lost = ("", f"{program}: error: Unable to contact slurm controller (connect failure)\n", 1)
        if is_lost and not (program == "sbatch" and is_done):
            return lost
        answer = getattr(self, program)(args)
        return lost if is_lost else answer

    def sbatch(self, args: list[str]) -> tuple[str, str, int]:
        job = Job(len(self.jobs) + 1, args[-1])
        job.ready = time.time() + self.random.uniform(0.0, 0.5)
        self.jobs[job.number] = job
        return ("ok!\n" if self.fate == "garbled" else f"{job.number}\n"), "", 0

    def squeue(self, args: list[str]) -> tuple[str, str, int]:
        given = dict(arg.split("=", 1) for arg in args if "=" in arg)
        if "--name" in given:
            found = [job for job in self.jobs.values() if job.name == given["--name"]]
        else:
            numbers = [int(number) for number in given["--jobs"].split(",")]
            found = [self.jobs[number] for number in numbers if number in self.jobs]
            if len(numbers) == 1 and not found:
                return "", "slurm_load_jobs error: Invalid job id specified\n", 1
        return "".join(job.line() + "\n" for job in found), "", 0

    def scancel(self, args: list[str]) -> tuple[str, str, int]:
        for number in args:
            self.jobs[int(number)].state = "CANCELLED"
        return "", "", 0


def serve(folder: str, seed: str, slots: str, template: str, fate: str = "") -> None:
    cluster = Cluster(folder, int(seed), int(slots), template, fate)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(folder + "/socket")
        server.listen(64)
        server.settimeout(0.02)
        while not os.path.exists(folder + "/stop"):
            cluster.tick()
            try:
                client, _ = server.accept()
            except TimeoutError:
                continue
            with client, client.makefile() as file:
                try:
                    stdout, stderr, code = cluster.answer(json.loads(file.readline()))
                    answer = {"stdout": stdout, "stderr": stderr, "code": code}
                    client.sendall(json.dumps(answer).encode())
                except (BrokenPipeError, ConnectionResetError, json.JSONDecodeError):
                    # The one that asked was killed.
                    pass


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(*sys.argv[2:])
    else:
        sys.exit(ask(os.environ["SIMULATED_SLURM"], [os.path.basename(sys.argv[0]), *sys.argv[1:]]))
