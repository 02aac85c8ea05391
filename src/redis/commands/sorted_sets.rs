//! Commands on sorted sets.

use crate::redis::commands::passthrough::passed_on;
use crate::redis::spec::{CommandSpec, READ_FAST, WRITE_FAST};

/// Rows of the command table for sorted-set commands (name, arity, flags, documentation and
/// function), sorted by name.
pub(in crate::redis) const COMMANDS: &[CommandSpec] = &[
    passed_on("zadd", -4)
        .flags(WRITE_FAST)
        .categories(&["sortedset"])
        .since("1.2.0", "sorted-set")
        .costs("O(log N), N being the number of members, for each member")
        .about("Adds members to a sorted set, or updates their scores."),
    passed_on("zcard", 2)
        .flags(READ_FAST)
        .categories(&["sortedset"])
        .since("1.2.0", "sorted-set")
        .costs("O(1)")
        .about("Returns the number of members of a sorted set."),
    passed_on("zcount", 4)
        .flags(READ_FAST)
        .categories(&["sortedset"])
        .since("2.0.0", "sorted-set")
        .costs("O(log N), N being the number of members")
        .about("Returns the number of members of a sorted set with scores in a range."),
    passed_on("zdiff", -3)
        .flags(&["readonly", "movablekeys"])
        .categories(&["sortedset"])
        .since("6.2.0", "sorted-set")
        .costs("O(N + M log M), N being the members of all sets and M of the new one")
        .about("Returns the difference of several sorted sets."),
    passed_on("zdiffstore", -4)
        .flags(&["write", "denyoom", "movablekeys"])
        .categories(&["sortedset"])
        .since("6.2.0", "sorted-set")
        .costs("O(N + M log M), N being the members of all sets and M of the new one")
        .about("Stores the difference of several sorted sets in a key."),
    passed_on("zincrby", 4)
        .flags(WRITE_FAST)
        .categories(&["sortedset"])
        .since("1.2.0", "sorted-set")
        .costs("O(log N), N being the number of members")
        .about("Increments the score of a member of a sorted set."),
    passed_on("zinter", -3)
        .flags(&["readonly", "movablekeys"])
        .categories(&["sortedset"])
        .since("6.2.0", "sorted-set")
        .costs(
            "O(N*K + M log M), N being the members of the smallest of K sets and M of the new one",
        )
        .about("Returns the intersection of several sorted sets."),
    passed_on("zintercard", -3)
        .flags(&["readonly", "movablekeys"])
        .categories(&["sortedset"])
        .since("7.0.0", "sorted-set")
        .costs("O(N*K), N being the members of the smallest of K sets")
        .about("Returns the number of members of the intersection of several sorted sets."),
    passed_on("zinterstore", -4)
        .flags(&["write", "denyoom", "movablekeys"])
        .categories(&["sortedset"])
        .since("2.0.0", "sorted-set")
        .costs(
            "O(N*K + M log M), N being the members of the smallest of K sets and M of the new one",
        )
        .about("Stores the intersection of several sorted sets in a key."),
    passed_on("zlexcount", 4)
        .flags(READ_FAST)
        .categories(&["sortedset"])
        .since("2.8.9", "sorted-set")
        .costs("O(log N), N being the number of members")
        .about("Returns the number of members of a sorted set in a lexicographical range."),
    passed_on("zmpop", -4)
        .flags(&["write", "movablekeys"])
        .categories(&["sortedset"])
        .since("7.0.0", "sorted-set")
        .costs("O(K + M log N), K being the keys, N the members of one and M those popped")
        .about("Pops the highest or lowest members of the first sorted set that is not empty."),
    passed_on("zmscore", -3)
        .flags(READ_FAST)
        .categories(&["sortedset"])
        .since("6.2.0", "sorted-set")
        .costs("O(N), N being the number of members requested")
        .about("Returns the scores of one or more members of a sorted set."),
    passed_on("zpopmax", -2)
        .flags(&["write", "fast"])
        .categories(&["sortedset"])
        .since("5.0.0", "sorted-set")
        .costs("O(log N * M), N being the number of members and M of those removed")
        .about("Pops the members with the highest scores from a sorted set."),
    passed_on("zpopmin", -2)
        .flags(&["write", "fast"])
        .categories(&["sortedset"])
        .since("5.0.0", "sorted-set")
        .costs("O(log N * M), N being the number of members and M of those removed")
        .about("Pops the members with the lowest scores from a sorted set."),
    passed_on("zrandmember", -2)
        .flags(&["readonly"])
        .categories(&["sortedset"])
        .since("6.2.0", "sorted-set")
        .costs("O(M log N), N being the number of members and M of those returned")
        .about("Returns one or more random members of a sorted set."),
    passed_on("zrange", -4)
        .flags(&["readonly"])
        .categories(&["sortedset"])
        .since("1.2.0", "sorted-set")
        .costs("O(log N + M), N being the number of members and M of those returned")
        .about(
            "Returns the members of a sorted set in a range of indexes or scores, or in a \
             lexicographical range.",
        ),
    passed_on("zrangebylex", -4)
        .flags(&["readonly"])
        .categories(&["sortedset"])
        .since("2.8.9", "sorted-set")
        .costs("O(log N + M), N being the number of members and M of those returned")
        .about("Returns the members of a sorted set in a lexicographical range."),
    passed_on("zrangebyscore", -4)
        .flags(&["readonly"])
        .categories(&["sortedset"])
        .since("1.0.5", "sorted-set")
        .costs("O(log N + M), N being the number of members and M of those returned")
        .about("Returns the members of a sorted set with scores in a range."),
    passed_on("zrangestore", -5)
        .flags(&["write", "denyoom"])
        .categories(&["sortedset"])
        .since("6.2.0", "sorted-set")
        .costs("O(log N + M), N being the number of members and M of those returned")
        .about("Stores a range of members of a sorted set in a key."),
    passed_on("zrank", 3)
        .flags(READ_FAST)
        .categories(&["sortedset"])
        .since("2.0.0", "sorted-set")
        .costs("O(log N), N being the number of members")
        .about("Returns the index of a member of a sorted set, ordered by ascending scores."),
    passed_on("zrem", -3)
        .flags(&["write", "fast"])
        .categories(&["sortedset"])
        .since("1.2.0", "sorted-set")
        .costs("O(log N * M), N being the number of members and M of those removed")
        .about("Removes one or more members from a sorted set."),
    passed_on("zremrangebylex", 4)
        .flags(&["write"])
        .categories(&["sortedset"])
        .since("2.8.9", "sorted-set")
        .costs("O(log N * M), N being the number of members and M of those removed")
        .about("Removes the members of a sorted set in a lexicographical range."),
    passed_on("zremrangebyrank", 4)
        .flags(&["write"])
        .categories(&["sortedset"])
        .since("2.0.0", "sorted-set")
        .costs("O(log N * M), N being the number of members and M of those removed")
        .about("Removes the members of a sorted set in a range of indexes."),
    passed_on("zremrangebyscore", 4)
        .flags(&["write"])
        .categories(&["sortedset"])
        .since("1.2.0", "sorted-set")
        .costs("O(log N * M), N being the number of members and M of those removed")
        .about("Removes the members of a sorted set with scores in a range."),
    passed_on("zrevrange", -4)
        .flags(&["readonly"])
        .categories(&["sortedset"])
        .since("1.2.0", "sorted-set")
        .costs("O(log N + M), N being the number of members and M of those returned")
        .about("Returns the members of a sorted set in a range of indexes, in reverse order."),
    passed_on("zrevrangebylex", -4)
        .flags(&["readonly"])
        .categories(&["sortedset"])
        .since("2.8.9", "sorted-set")
        .costs("O(log N + M), N being the number of members and M of those returned")
        .about("Returns the members of a sorted set in a lexicographical range, in reverse order."),
    passed_on("zrevrangebyscore", -4)
        .flags(&["readonly"])
        .categories(&["sortedset"])
        .since("2.2.0", "sorted-set")
        .costs("O(log N + M), N being the number of members and M of those returned")
        .about("Returns the members of a sorted set with scores in a range, in reverse order."),
    passed_on("zrevrank", 3)
        .flags(READ_FAST)
        .categories(&["sortedset"])
        .since("2.0.0", "sorted-set")
        .costs("O(log N), N being the number of members")
        .about("Returns the index of a member of a sorted set, ordered by descending scores."),
    passed_on("zscan", -3)
        .flags(&["readonly"])
        .categories(&["sortedset"])
        .since("2.8.0", "sorted-set")
        .costs("O(1) a call, O(N) for all, N being the number of members")
        .about("Iterates over the members and scores of a sorted set."),
    passed_on("zscore", 3)
        .flags(READ_FAST)
        .categories(&["sortedset"])
        .since("1.2.0", "sorted-set")
        .costs("O(1)")
        .about("Returns the score of a member of a sorted set."),
    passed_on("zunion", -3)
        .flags(&["readonly", "movablekeys"])
        .categories(&["sortedset"])
        .since("6.2.0", "sorted-set")
        .costs("O(N + M log M), N being the members of all sets and M of the new one")
        .about("Returns the union of several sorted sets."),
    passed_on("zunionstore", -4)
        .flags(&["write", "denyoom", "movablekeys"])
        .categories(&["sortedset"])
        .since("2.0.0", "sorted-set")
        .costs("O(N + M log M), N being the members of all sets and M of the new one")
        .about("Stores the union of several sorted sets in a key."),
];
