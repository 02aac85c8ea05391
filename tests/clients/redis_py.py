"""redis-py against a cluster, unmodified: plain on every replica, both versions of the protocol,
pipelines, and its cluster client. Arguments: the replicas' ports."""

import sys
import time

import redis
from redis.cluster import ClusterNode, LoadBalancingStrategy, RedisCluster

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
    assert client.set(number, 7, ex=5) is True
    assert 0 < client.pttl(number) <= 5_010
    assert client.persist(number) is True and client.ttl(number) == -1
    assert client.set(number, 7, px=1) is True
    deadline = time.monotonic() + 10
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
        client.close()
    reader = RedisCluster(
        startup_nodes=[ClusterNode(HOST, PORTS[0])],
        load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN,
    )
    for number in range(50):
        reader.set("py:readers", number)
        assert reader.get("py:readers") == str(number).encode(), "reads here are never old"
    reader.close()


for each_port in PORTS:
    for options in [{}, {"protocol": 2}, {"protocol": 3}]:
        with redis.Redis(HOST, each_port, **options) as each_client:
            strings(each_client, each_port)
            talk(each_client, each_port)
            pipelines(each_client, each_port)
cluster()
print("redis-py", redis.__version__, "is content")
