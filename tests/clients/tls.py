"""redis-py with TLS, unmodified: plain on every replica, its cluster client and its Sentinel client.
Arguments: the folder with the certificates, the replicas' ports."""

import sys

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.sentinel import Sentinel

HOST = "127.0.0.1"
FOLDER, *PORTS = sys.argv[1:]
TLS = {
    "ssl": True,
    "ssl_ca_certs": f"{FOLDER}/ca.crt",
    "ssl_certfile": f"{FOLDER}/client.crt",
    "ssl_keyfile": f"{FOLDER}/client.key",
}

for port in PORTS:
    with redis.Redis(HOST, int(port), **TLS) as client:
        value = bytes(range(256)) * 4_000
        assert client.set(f"py:{port}", value) is True
        assert client.get(f"py:{port}") == value
        pipeline = client.pipeline(transaction=False)
        for _ in range(500):
            pipeline.incr(f"py:{port}:n")
        assert pipeline.execute()[-1] % 500 == 0
    try:
        redis.Redis(HOST, int(port), ssl=True, ssl_ca_certs=TLS["ssl_ca_certs"]).ping()
        raise AssertionError("a client without a certificate was accepted")
    except redis.ConnectionError:
        pass

nodes = [ClusterNode(HOST, int(port)) for port in PORTS]
with RedisCluster(startup_nodes=nodes, **TLS) as client:
    assert client.set("py:cluster", "value") is True
    assert client.get("py:cluster") == b"value"
sentinels = [(HOST, int(port)) for port in PORTS]
master = Sentinel(sentinels, sentinel_kwargs=TLS, **TLS).master_for("mymaster")
assert master.get("py:cluster") == b"value"
print("is content")
