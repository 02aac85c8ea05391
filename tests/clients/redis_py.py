"""redis-py against a cluster, unmodified: plain on every replica, both versions of the protocol,
pipelines, listeners, its cluster client, its Sentinel client, and the same with asyncio. Arguments:
the replicas' ports."""

import asyncio
import sys
import time

import redis
import redis.asyncio
from redis.asyncio.cluster import ClusterNode as AsyncClusterNode
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.cluster import ClusterNode, LoadBalancingStrategy, RedisCluster
from redis.sentinel import Sentinel

HOST = "127.0.0.1"
PORTS = [int(port) for port in sys.argv[1:]]


def refused(kind, call, *arguments, **options):
    """The text with which a call is refused."""
    try:
        got = call(*arguments, **options)
    except kind as error:
        return str(error)
    raise AssertionError(f"{call} was not refused, but gave {got!r}")


def strings(client, port):
    """Every command of the first set, with what redis-py makes of its reply."""
    key = f"py:{port}:{client.get_connection_kwargs().get('protocol', 3)}"
    number, other = key + ":n", key + ":o"
    assert client.delete(key, number, other) in (0, 1, 2, 3)
    assert client.get(key) is None
    assert client.set(key, b"\x00\xff\r\n") is True
    assert client.get(key) == b"\x00\xff\r\n"
    assert client.set(key, "no", nx=True) is None
    assert client.set(other, "no", xx=True) is None
    assert client.set(key, "new", xx=True, get=True) == b"\x00\xff\r\n"
    assert client.setnx(key, "no") in (0, False)
    assert client.setnx(other, "yes") in (1, True)
    assert client.getset(other, "no") == b"yes"
    assert client.getdel(other) == b"no"
    assert client.mset({key: "a", other: "b"}) is True
    assert client.mget(key, "nothing", other) == [b"a", None, b"b"]
    assert client.append(key, "bc") == 3
    assert client.strlen(key) == 3
    assert client.incr(number) == 1
    assert client.incrby(number, 41) == 42
    assert client.decr(number) == 41
    assert client.decrby(number, 51) == -10
    assert "not an integer" in refused(redis.ResponseError, client.incr, key)
    assert client.set(number, 7, ex=1_000) is True
    assert 500_000 < client.pttl(number) <= 1_000_010
    assert client.persist(number) is True and client.ttl(number) == -1
    assert client.set(number, 7, px=1) is True
    deadline = time.monotonic() + 60
    while client.exists(number) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert client.get(number) is None
    assert client.exists(key, other, "nothing") == 2
    assert client.type(key) in (b"string", "string")
    assert client.dbsize() >= 3
    large = bytes(range(256)) * 4096
    assert client.set(key, large) and client.get(key) == large
    assert client.unlink(key, other) == 2


def talk(client, port):
    """What clients and people ask of a server beside its data."""
    assert client.ping() is True
    assert client.echo("hello") == b"hello"
    assert client.info()["redis_version"].startswith("7.2.")
    assert client.info("persistence")["loading"] == 0
    assert client.info("raft")["raft_replicas"] == len(PORTS)
    assert client.config_get("maxmemory") == {"maxmemory": "0"}
    assert client.config_set("maxmemory", "0") is True
    assert client.client_setname("me") is True
    assert client.client_getname() in (b"me", "me")
    assert client.client_id() > 0
    assert any(entry["name"] == "me" for entry in client.client_list())
    assert client.client_info()["name"] == "me"
    assert len(client.time()) == 2
    assert client.command_count() > 30
    assert client.command()["get"]["arity"] == 2
    assert client.role()[0] in (b"master", b"slave", "master", "slave")
    assert client.cluster("INFO")["cluster_state"] == "ok"
    assert "unknown command" in refused(redis.ResponseError, client.execute_command, "NONESUCH")


def pipelines(client, port):
    """Replies come back in order, also of many requests at once."""
    key = f"py:pipeline:{port}"
    client.delete(key)
    pipeline = client.pipeline(transaction=False)
    for _ in range(100):
        pipeline.incr(key)
        pipeline.get(key)
    replies = pipeline.execute()
    assert replies[0::2] == list(range(1, 101))
    assert replies[1::2] == [str(number).encode() for number in range(1, 101)]
    for _ in range(2_000):
        pipeline.decr(key)
    assert pipeline.execute() == list(range(99, -1_901, -1))


def key_ranges(client, port):
    """All keys with a prefix, a page at a time, with revisions and values."""
    prefix = f"py:range:{port}:"
    client.mset({f"{prefix}{number:03}": number for number in range(250)})
    found, cursor, revision = [], b"-", 0
    while cursor is not None:
        page = client.execute_command(
            "KEYRANGE", cursor, "+", "PREFIX", prefix, "LIMIT", 99, "WITHVALUES"
        )
        cursor, revision, triples = page
        found += triples
    assert [key for key, _, _ in found] == [f"{prefix}{n:03}".encode() for n in range(250)]
    assert [int(value) for _, _, value in found] == list(range(250))
    assert all(0 < changed <= revision for _, changed, _ in found)


def locks(client, port):
    """A lock whose fencing token rises with each owner."""
    key, tokens = f"py:lock:{port}", []
    client.delete(key)
    for owner in ["one", "two"]:
        pipeline = client.pipeline()
        pipeline.set(key, owner, nx=True, px=60_000).object("revision", key)
        acquired, token = pipeline.execute()
        assert acquired is True
        assert client.set(key, "other", nx=True, px=60_000) is None
        assert client.object("revision", key) == token
        assert client.execute_command("DELEX", key, "IFEQ", "other") == 0
        assert client.execute_command("DELEX", key, "IFEQ", owner) == 1
        assert client.object("revision", key) is None
        tokens.append(token)
    assert tokens[0] < tokens[1]


def transactions(client, port):
    """Pipelines as they are by default, which are transactions, and watched keys."""
    key, name = f"py:transaction:{port}", f"py:transaction:{port}:name"
    client.delete(key, name)
    with client.pipeline() as pipeline:
        pipeline.set(key, 1).incr(key).get(key).echo("hello").hset(name, "f", "v").hgetall(name)
        assert pipeline.execute() == [True, 2, b"2", b"hello", 1, {b"f": b"v"}]
        pipeline.incr(key).incr(name).incr(key)
        replies = pipeline.execute(raise_on_error=False)
        assert replies[0::2] == [3, 4] and "WRONGTYPE" in str(replies[1])
        pipeline.incr(key).execute_command("NONESUCH")
        assert "unknown command" in refused(redis.ResponseError, pipeline.execute)
    assert client.get(key) == b"4"
    with client.pipeline() as pipeline:
        pipeline.watch(key)
        assert pipeline.get(key) == b"4"
        client.incr(key)
        pipeline.multi()
        pipeline.set(key, 100)
        assert "Watched variable" in refused(redis.WatchError, pipeline.execute)
    assert client.get(key) == b"5"
    interfered = []

    def add_ten(pipeline):
        number = int(pipeline.get(key))
        if not interfered:
            interfered.append(client.incr(key))
        pipeline.multi()
        pipeline.set(key, number + 10)

    assert client.transaction(add_ten, key) == [True]
    assert client.get(key) == b"16"


def cluster():
    """The cluster client finds the leader, whichever replica it asks first."""
    for port in PORTS:
        client = RedisCluster(startup_nodes=[ClusterNode(HOST, port)])
        for number in range(50):
            assert client.set(f"py:cluster:{number}", number) is True
            assert client.get(f"py:cluster:{number}") == str(number).encode()
        assert client.mget_nonatomic("py:cluster:1", "py:cluster:2") == [b"1", b"2"]
        assert len(client.get_primaries()) == 1
        assert len(client.get_replicas()) == len(PORTS) - 1
        assert client.cluster_keyslot("foo") == 12182
        transaction = client.pipeline(transaction=True)
        transaction.set("py:{cluster}:a", 1).incr("py:{cluster}:a").get("py:{cluster}:a")
        assert transaction.execute()[1:] == [2, b"2"]
        client.close()
    reader = RedisCluster(
        startup_nodes=[ClusterNode(HOST, PORTS[0])],
        load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN,
    )
    for number in range(50):
        reader.set("py:readers", number)
        assert reader.get("py:readers") == str(number).encode(), "reads here are never old"
    reader.close()


def sentinel():
    """The Sentinel client finds the leader and the others, whichever replica it asks first."""
    for turn in range(len(PORTS)):
        asked = Sentinel([(HOST, port) for port in PORTS[turn:] + PORTS[:turn]])
        # Two questions, between which a busy machine may elect another leader.
        deadline = time.monotonic() + 60
        while True:
            leader = asked.discover_master("mymaster")
            assert leader[0] == HOST and leader[1] in PORTS
            found = sorted([leader, *asked.discover_slaves("mymaster")])
            if found == [(HOST, port) for port in PORTS]:
                break
            assert time.monotonic() < deadline, found
        master = asked.master_for("mymaster")
        while master.role()[0] not in (b"master", "master"):
            assert time.monotonic() < deadline, "whom it finds does not lead"
            master = asked.master_for("mymaster")
        for number in range(20):
            assert master.set(f"py:sentinel:{number}", number) is True
            reader = asked.slave_for("mymaster")
            assert reader.get(f"py:sentinel:{number}") == str(number).encode(), "never old"


def listeners():
    """Whoever listens at any replica hears every message, in the order of the log."""
    heard = []
    for port in PORTS:
        listener = redis.Redis(HOST, port).pubsub()
        listener.subscribe("py:news")
        listener.psubscribe("py:n*")
        for _ in range(2):
            assert listener.get_message(timeout=20)["type"] in ("subscribe", "psubscribe")
        heard.append(listener)
    client = redis.Redis(HOST, PORTS[0])
    for number in range(20):
        client.publish("py:news", number)
    for listener in heard:
        for number in range(20):
            for kind in ("message", "pmessage"):
                message = listener.get_message(timeout=20)
                assert (message["type"], int(message["data"])) == (kind, number)
        listener.close()


def users():
    """Users that are made at one replica log in at all of them, and may do no more than they may."""
    with redis.Redis(HOST, PORTS[0]) as admin:
        assert admin.acl_setuser(
            "py", enabled=True, reset=True, passwords=["+secret"], keys=["py:*"],
            commands=["+get", "+set", "+ping", "+acl|whoami", "+client", "+hello"],
        )
        assert "+get" in str(admin.acl_getuser("py")["commands"])
        assert {"default", "py"} <= set(admin.acl_users())
        deadline = time.monotonic() + 60
        for port in PORTS:
            for protocol in (2, 3):
                login = {"username": "py", "password": "secret", "protocol": protocol}
                with redis.Redis(HOST, port, **login) as client:
                    while True:
                        try:
                            assert client.acl_whoami() in ("py", b"py")
                            break
                        except redis.AuthenticationError:
                            assert time.monotonic() < deadline, "the user is not there"
                    assert client.set("py:user", port) is True
                    assert int(client.get("py:user")) == port
                    refused(redis.exceptions.NoPermissionError, client.get, "other")
                    refused(redis.exceptions.NoPermissionError, client.flushall)
        with redis.Redis(HOST, PORTS[0], username="py", password="wrong") as wrong:
            assert "invalid username-password" in refused(redis.AuthenticationError, wrong.ping)
        assert admin.acl_deluser("py") == 1


def databases():
    """Each database has its own keys, by argument and by URL."""
    for port in PORTS:
        for number in (1, 15):
            with redis.Redis(HOST, port, db=number) as client:
                assert client.set("py:db", number) is True
                with client.pipeline() as pipeline:
                    replies = pipeline.incr("py:db").get("py:db").execute()
                assert replies == [number + 1, b"%d" % (number + 1)]
            with redis.Redis.from_url(f"redis://{HOST}:{port}/{number}") as client:
                assert client.get("py:db") == b"%d" % (number + 1)
                assert bool(client.move("py:db", 2)) is (number == 1)
        with redis.Redis(HOST, port) as client:
            assert client.get("py:db") is None
            assert client.swapdb(2, 3) is True
        with redis.Redis(HOST, port, db=3) as client:
            assert client.keys("*") == [b"py:db"]
            assert client.copy("py:db", "py:db", destination_db=4, replace=True)
            assert client.flushdb() is True
            assert client.info("keyspace")["db4"]["keys"] == 1


async def with_asyncio():
    """The same habits without threads."""
    for port in PORTS:
        async with redis.asyncio.Redis(host=HOST, port=port) as client:
            await client.delete("py:async")
            async with client.pipeline(transaction=False) as pipeline:
                for _ in range(50):
                    pipeline.incr("py:async")
                assert await pipeline.execute() == list(range(1, 51))
            replies = await asyncio.gather(*(client.incr("py:async") for _ in range(50)))
            assert sorted(replies) == list(range(51, 101))
        client = AsyncRedisCluster(startup_nodes=[AsyncClusterNode(HOST, port)])
        assert await client.set("py:async:cluster", port) is True
        assert int(await client.get("py:async:cluster")) == port
        await client.aclose()
    asked = AsyncSentinel([(HOST, port) for port in PORTS])
    assert (await asked.discover_master("mymaster"))[1] in PORTS
    master = asked.master_for("mymaster")
    assert await master.set("py:async:sentinel", 1) is True
    await master.aclose()


for each_port in PORTS:
    for options in [{}, {"protocol": 2}, {"protocol": 3}]:
        with redis.Redis(HOST, each_port, **options) as each_client:
            strings(each_client, each_port)
            talk(each_client, each_port)
            pipelines(each_client, each_port)
            key_ranges(each_client, each_port)
            locks(each_client, each_port)
            transactions(each_client, each_port)
cluster()
sentinel()
listeners()
users()
databases()
asyncio.run(with_asyncio())
print("redis-py", redis.__version__, "is content")
