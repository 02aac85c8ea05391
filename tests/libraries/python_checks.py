"""Checks of one Python library each, against the replica at a port of this machine.

    python python_checks.py LIBRARY PORT FILE SPAN

FILE is where jobs are noted when they run: a line for each. SPAN is the time in seconds over which
jobs are added. The last line of the output is `ok` and what was counted; anything else is a
failure.
"""

import asyncio
import os
import subprocess
import sys
import threading
import time

JOBS = 300
CHECKS = {}
WORKERS = {}
PORT = int(sys.argv[2]) if len(sys.argv) > 2 else 7001
URL = f"redis://127.0.0.1:{PORT}/0"
FILE = sys.argv[3] if len(sys.argv) > 3 else "/dev/null"
SPAN = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0


def check(function):
    CHECKS[function.__name__] = function
    return function


def worker(function):
    WORKERS[function.__name__] = function
    return function


def note(number):
    """The job: notes that it ran. One write of a few bytes is atomic."""
    file = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{number}\n".encode())
    os.close(file)


def client(**options):
    import redis

    return redis.Redis(port=PORT, **options)


def retried(action):
    """Repeats a harmless action while the cluster has no leader or the connection is lost."""
    for _ in range(100):
        try:
            return action()
        except Exception:  # each library has errors of its own
            time.sleep(0.1)
    return action()


def queue(worker_name, add):
    """Adds jobs while a worker process runs them, and counts those that are lost or ran twice.

    A job whose addition fails may run or not. A worker that ends is started again, as a supervisor
    of processes does it.
    """
    done = threading.Event()

    def supervise():
        arguments = [sys.executable, __file__, worker_name, str(PORT), FILE, "0"]
        with open(FILE + ".log", "ab") as log:
            while not done.is_set():
                process = subprocess.Popen(arguments, stdout=log, stderr=log)
                while process.poll() is None and not done.is_set():
                    time.sleep(0.05)
                process.terminate()
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                time.sleep(0.2)

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    added, failed = set(), set()
    for number in range(JOBS):
        try:
            add(number)
            added.add(number)
        except Exception as error:  # each library has errors of its own
            print(f"job {number}: {error!r}"[:200])
            failed.add(number)
        time.sleep(SPAN / JOBS)
    deadline, runs = time.time() + 120, []
    while time.time() < deadline:
        runs = [int(line) for line in open(FILE)] if os.path.exists(FILE) else []
        if added <= set(runs):
            break
        time.sleep(0.2)
    time.sleep(1)
    done.set()
    supervisor.join()
    runs = [int(line) for line in open(FILE)] if os.path.exists(FILE) else []
    lost, twice = len(added - set(runs)), len(runs) - len(set(runs))
    result = f"jobs={len(added)} failed={len(failed)} lost={lost} twice={twice}"
    assert lost == 0 and len(added) >= JOBS // 2, result
    return result


def counted_under_lock(lock, threads=4, rounds=20):
    """Threads increment a counter by reading and writing it, each time with the lock."""
    counter = client()
    retried(lambda: counter.set("counter", 0))
    errors = []

    def run():
        own = client()
        for _ in range(rounds):
            try:
                with lock():
                    own.set("counter", int(own.get("counter")) + 1)
            except Exception as error:  # each library has errors of its own
                errors.append(repr(error))

    all_threads = [threading.Thread(target=run) for _ in range(threads)]
    [thread.start() for thread in all_threads]
    [thread.join() for thread in all_threads]
    found, wanted = int(retried(lambda: counter.get("counter"))), threads * rounds
    # A write whose lock was lost or whose outcome is unknown may count or not.
    assert wanted - len(errors) <= found <= wanted, (found, wanted, errors[:3])
    return f"increments={found} of {wanted} errors={len(errors)}"


# Locks.


@check
def redis_py_lock():
    return counted_under_lock(lambda: client().lock("lock", timeout=20))


@check
def redlock_py():
    import contextlib

    from redlock import Redlock

    manager = Redlock([{"host": "127.0.0.1", "port": PORT, "db": 0}], retry_count=500)

    @contextlib.contextmanager
    def lock():
        held = manager.lock("redlock", 20_000)
        assert held
        yield
        manager.unlock(held)

    return counted_under_lock(lock)


@check
def pottery():
    from pottery import Redlock, RedisDict

    masters = {client()}
    held = lambda: Redlock(key="pottery", masters=masters, auto_release_time=20)
    result = counted_under_lock(held, threads=2, rounds=10)
    words = RedisDict({"a": 1}, redis=client(), key="pottery-dict")
    assert dict(words) == {"a": 1}
    words.clear()
    return result


@check
def python_redis_lock():
    import redis_lock

    return counted_under_lock(lambda: redis_lock.Lock(client(), "name", expire=20))


# Rate limiters.


@check
def limits():
    from limits import parse, storage, strategies

    store = storage.storage_from_string(URL)
    results = []
    for kind in ["fixed-window", "moving-window", "sliding-window-counter"]:
        limiter = strategies.STRATEGIES[kind](store)
        limit = parse("10/hour")
        hits = [limiter.hit(limit, kind, str(time.time())[:6]) for _ in range(15)]
        assert hits.count(True) == 10, (kind, hits)
        results.append(kind)
    return " ".join(results)


@check
def flask_limiter():
    from flask import Flask
    from flask_limiter import Limiter

    app = Flask("checks")
    limiter = Limiter(lambda: str(PORT) + FILE, app=app, storage_uri=URL)
    app.route("/")(limiter.limit("5/hour")(lambda: "served"))
    codes = [app.test_client().get("/").status_code for _ in range(8)]
    assert codes == [200] * 5 + [429] * 3, codes
    return "5 of 8 requests served"


@check
def pyrate_limiter():
    from pyrate_limiter import Duration, Limiter, Rate, RedisBucket

    bucket = RedisBucket.init([Rate(5, Duration.HOUR)], client(), "pyrate" + FILE)
    passed = [bucket.put(_rate_item(number)) for number in range(8)]
    assert passed.count(True) == 5, passed
    del Limiter
    return "5 of 8 items passed"


def _rate_item(number):
    from pyrate_limiter import RateItem

    return RateItem(f"item{number}", int(time.time() * 1000) + number)


# Caches and sessions.


@check
def django_redis():
    import django
    from django.conf import settings

    backend = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": URL}
    settings.configure(CACHES={"default": backend})
    django.setup()
    from django.core.cache import cache

    cache.set("count", 0, timeout=None)

    def run():
        for _ in range(100):
            cache.incr("count")

    threads = [threading.Thread(target=run) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    found = retried(lambda: cache.get("count"))
    assert found == 800, found
    with cache.lock("lock", timeout=5):
        pass
    assert cache.get_or_set("other", "value") == "value" and cache.ttl("other") > 0
    assert list(cache.iter_keys("oth*")) == ["other"] and cache.delete_pattern("oth*") == 1
    return "800 of 800 increments"


@check
def flask_caching():
    from flask import Flask
    from flask_caching import Cache

    app = Flask("checks")
    cache = Cache(app, config={"CACHE_TYPE": "RedisCache", "CACHE_REDIS_URL": URL})
    with app.app_context():
        cache.set("a", [1]), cache.set_many({"b": 2, "c": 3})
        assert cache.get("a") == [1] and cache.get_many("b", "c") == [2, 3]
        assert cache.delete("a") and cache.get("a") is None
    return "set, get and delete"


@check
def flask_session():
    from flask import Flask, session
    from flask_session import Session

    app = Flask("checks")
    app.config.update(SESSION_TYPE="redis", SESSION_REDIS=client())
    Session(app)

    @app.route("/")
    def count():
        session["count"] = session.get("count", 0) + 1
        return str(session["count"])

    browser = app.test_client()
    assert [browser.get("/").text for _ in range(3)] == ["1", "2", "3"]
    return "3 requests of one session"


@check
def cachelib():
    from cachelib import RedisCache

    cache = RedisCache(port=PORT)
    cache.set("a", 1), cache.add("a", 2)
    assert cache.get("a") == 1 and cache.inc("a", 4) == 5 and cache.delete("a")
    return "set, add and increment"


@check
def aiocache():
    import aiocache as library

    async def run():
        cache = library.Cache(library.Cache.REDIS, endpoint="127.0.0.1", port=PORT)
        await cache.set("a", "1")
        assert await cache.increment("b") and await cache.get("a") == "1"
        async with library.lock.OptimisticLock(cache, "a") as lock:
            await lock.cas("2")
        async with library.lock.RedLock(cache, "a", lease=2):
            pass
        await cache.delete("b")
        return "compare and set, lock"

    return asyncio.run(run())


@check
def dogpile_cache():
    from dogpile.cache import make_region

    arguments = {"port": PORT, "distributed_lock": True, "thread_local_lock": False}
    region = make_region().configure("dogpile.cache.redis", arguments=arguments)
    calls = []

    def create():
        calls.append(1)
        time.sleep(0.05)
        return "value"

    key = "dogpile" + FILE
    threads = [threading.Thread(target=region.get_or_create, args=(key, create)) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(calls) == 1, calls
    return "1 of 8 threads created the value"


@check
def channels_redis():
    from channels_redis.core import RedisChannelLayer

    async def run():
        layer = RedisChannelLayer(hosts=[("127.0.0.1", PORT)])
        names = [await layer.new_channel() for _ in range(3)]
        for name in names:
            await layer.group_add("group", name)
        for number in range(20):
            await layer.group_send("group", {"type": "message", "number": number})
        for name in names:
            found = [(await layer.receive(name))["number"] for _ in range(20)]
            assert found == list(range(20)), found
        return "3 receivers of 20 messages"

    return asyncio.run(run())


# Job queues.


def celery_app():
    from celery import Celery

    app = Celery("checks", broker=URL, backend=URL)
    app.conf.broker_connection_retry_on_startup = True
    app.task(name="note")(note)
    return app


@worker
def celery_worker():
    options = "--pool threads --concurrency 4 --without-gossip --without-mingle --loglevel WARNING"
    celery_app().worker_main(["worker", *options.split()])


@check
def celery():
    app = celery_app()
    return queue("celery_worker", lambda number: app.send_task("note", [number]))


@check
def celery_redbeat():
    from celery.schedules import schedule
    from redbeat import RedBeatSchedulerEntry

    app = celery_app()
    app.conf.redbeat_redis_url = URL
    entry = RedBeatSchedulerEntry("entry", "note", schedule(10), args=[1], app=app)
    entry.save()
    found = RedBeatSchedulerEntry.from_key(entry.key, app=app)
    assert found.task == "note"
    found.delete()
    return "an entry was saved and found"


@check
def kombu():
    from kombu import Connection

    with Connection(URL) as connection:
        messages = connection.SimpleQueue("kombu" + FILE.replace("/", "_"))
        for number in range(50):
            messages.put(number)
        found = []
        for _ in range(50):
            message = messages.get(timeout=10)
            found.append(message.payload)
            message.ack()
        assert found == list(range(50)), found
    return "50 messages in order"


@worker
def rq_worker():
    from rq import Queue, SimpleWorker

    connection = client()
    SimpleWorker([Queue("rq", connection=connection)], connection=connection).work(
        logging_level="WARNING"
    )


@check
def rq():
    from rq import Queue

    jobs = Queue("rq", connection=client())
    return queue("rq_worker", lambda number: jobs.enqueue("python_checks.note", number))


@check
def rq_scheduler():
    from datetime import timedelta

    from rq import Queue
    from rq_scheduler import Scheduler

    jobs = Queue("scheduled", connection=client())
    jobs.empty()
    scheduler = Scheduler("scheduled", connection=client())
    scheduler.enqueue_in(timedelta(seconds=0), note, 1)
    assert scheduler.acquire_lock()
    scheduler.enqueue_jobs()
    scheduler.remove_lock()
    assert jobs.count == 1
    return "a job was scheduled and moved"


def dramatiq_actor():
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    dramatiq.set_broker(RedisBroker(port=PORT))
    return dramatiq.actor(note)


@worker
def dramatiq_worker():
    import dramatiq

    dramatiq_actor()
    dramatiq.Worker(dramatiq.get_broker(), worker_threads=4).start()
    time.sleep(3600)


@check
def dramatiq():
    return queue("dramatiq_worker", dramatiq_actor().send)


def huey_task():
    from huey import RedisHuey

    huey = RedisHuey("checks", port=PORT)
    return huey, huey.task()(note)


@worker
def huey_worker():
    huey_task()[0].create_consumer(workers=4).run()


@check
def huey():
    return queue("huey_worker", huey_task()[1])


async def async_note(_context, number=None, **_options):
    note(number)


@worker
def arq_worker():
    from arq.connections import RedisSettings
    from arq.worker import Worker, func

    settings = RedisSettings(port=PORT, conn_retries=100)
    Worker([func(async_note, name="note")], redis_settings=settings, poll_delay=0.05).run()


def in_loop(make):
    """Returns a function that runs coroutines in one event loop, with what `make` has made."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    run = lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)
    return run, run(make())


@check
def arq():
    from arq import create_pool
    from arq.connections import RedisSettings

    run, pool = in_loop(lambda: create_pool(RedisSettings(port=PORT)))
    return queue("arq_worker", lambda number: run(pool.enqueue_job("note", number)))


@worker
def saq_worker():
    from saq import Queue, Worker

    async def run():
        jobs = Queue.from_url(URL)
        await Worker(jobs, [("note", async_note)], concurrency=4).start()

    asyncio.run(run())


@check
def saq():
    from saq import Queue

    async def connect():
        jobs = Queue.from_url(URL)
        await jobs.connect()
        return jobs

    run, jobs = in_loop(connect)
    return queue("saq_worker", lambda number: run(jobs.enqueue("note", number=number)))


def taskiq_broker(kind):
    import taskiq_redis

    broker = getattr(taskiq_redis, kind)(url=URL, queue_name=kind)

    async def run(number):
        note(number)

    return broker, broker.register_task(run, task_name="note")


def run_taskiq(kind):
    from taskiq.api import run_receiver_task

    async def run():
        broker, _ = taskiq_broker(kind)
        broker.is_worker_process = True
        await broker.startup()
        await run_receiver_task(broker)

    asyncio.run(run())


def check_taskiq(kind, worker_name):
    async def connect():
        broker, task = taskiq_broker(kind)
        await broker.startup()
        return task

    run, task = in_loop(connect)
    return queue(worker_name, lambda number: run(task.kiq(number)))


@worker
def taskiq_list_worker():
    run_taskiq("ListQueueBroker")


@worker
def taskiq_stream_worker():
    run_taskiq("RedisStreamBroker")


@check
def taskiq_list():
    return check_taskiq("ListQueueBroker", "taskiq_list_worker")


@check
def taskiq_stream():
    return check_taskiq("RedisStreamBroker", "taskiq_stream_worker")


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "list"
    if name == "list":
        print("\n".join(CHECKS))
    elif name in WORKERS:
        WORKERS[name]()
    else:
        print("ok", CHECKS[name](), flush=True)
        os._exit(0)
