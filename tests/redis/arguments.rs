//! The arguments of the requests in random streams, by their kinds in the templates.

/// Arguments by kind. The first row has the usual arguments, the optional second row rare ones. An
/// argument that occurs twice is drawn twice as often. Kinds of keys overlap, so that commands are
/// also applied to keys of another type.
pub(crate) const ARGUMENTS: &[(&str, &[&[&[u8]]])] = &[
    ("str", &[STRING_KEYS, ALL_KEYS]),
    ("hash", &[&[b"h1", b"h2", b"h3"], ALL_KEYS]),
    ("list", &[&[b"l1", b"l2", b"l3"], ALL_KEYS]),
    ("set", &[&[b"m1", b"m2", b"m3"], ALL_KEYS]),
    ("zset", &[&[b"z1", b"z2", b"z3"], ALL_KEYS]),
    ("stream", &[&[b"x1", b"x2", b"x3"], ALL_KEYS]),
    // Only keys of sorted sets in which the scores are positions: with other scores, Redis searches
    // anywhere.
    ("geo", &[GEO_KEYS]),
    ("log", &[LOG_KEYS]),
    ("element", &[ELEMENTS, VALUES]),
    ("never", &[&[b"never"]]),
    ("sortkey", &[&[b"l1", b"l2", b"m1", b"m2", b"z1", b"z2"], ALL_KEYS]),
    ("weights", &[&[b"s*", b"h*->a", b"h*->1", b"s*->a", b"*", b"h*"], &[b"*->", b"*x"]]),
    ("one", &[&[b"a"]]),
    ("two", &[&[b"b"]]),
    ("three", &[&[b"c"]]),
    ("four", &[&[b"d"]]),
    ("five", &[&[b"e"]]),
    ("unit", &[&[b"m", b"km", b"ft", b"mi", b"KM"], &[b"", b"x", b"kmx"]]),
    ("longitude", &[LONGITUDES, NO_DEGREES]),
    ("latitude", &[LATITUDES, NO_DEGREES]),
    ("radius", &[&[b"0", b"1", b"50", b"200.5", b"3000", b"5e6", b"inf"], NO_RADII]),
    ("key", &[ALL_KEYS]),
    ("value", &[VALUES]),
    ("int", &[INTEGERS, VALUES]),
    ("float", &[FLOATS, VALUES]),
    ("member", &[&[b"a", b"b", b"c", b"d", b"e", b"1", b"2"], VALUES]),
    ("count", &[&[b"0", b"1", b"1", b"2", b"3", b"5", b"10", b"-1", b"-2", b"-4"], INTEGERS]),
    // Without the smallest integer, which Redis cannot negate to get a count.
    ("rank", &[&[b"1", b"2", b"3", b"-1", b"-2", b"-3"], &[b"0", b"x", b"9223372036854775807"]]),
    ("index", &[&[b"0", b"1", b"2", b"3", b"5", b"-1", b"-2", b"-3", b"-5", b"100"], INTEGERS]),
    // Not far below 0, because Redis replies with this many members of a set.
    ("some", &[&[b"0", b"1", b"2", b"3", b"10", b"-1", b"-2", b"-4"], NO_NUMBER]),
    ("score", &[SCORES, NO_NUMBER]),
    // Positive, because the product of 0 and a negative number is -0.
    ("weight", &[&[b"1", b"2", b"0.5", b"0.1", b"10", b"1e300", b"inf"], NO_NUMBER]),
    ("smin", &[&[b"-inf", b"0", b"(0", b"1", b"(1", b"-5", b"0.1", b"(-inf"], ENDS]),
    ("smax", &[&[b"+inf", b"inf", b"2", b"(2", b"3.0e3", b"5", b"(5", b"0.3"], ENDS]),
    ("lmin", &[&[b"-", b"[a", b"(a", b"[b", b"(1", b"[", b"("], ENDS]),
    ("lmax", &[&[b"+", b"[d", b"(d", b"[c", b"(e", b"[2", b"(zz"], ENDS]),
    ("few", &[&[b"1", b"1", b"2", b"2", b"3"], &[b"0", b"-1", b"x", b"100"]]),
    ("bit", &[&[b"0", b"1"], &[b"2", b"-1", b"x", b""]]),
    ("db", &[&[b"0", b"0", b"1", b"2"], &[b"15", b"16", b"-1", b"x", b"", b"99999999999"]]),
    ("offset", &[&[b"0", b"1", b"5", b"7", b"8", b"13", b"40", b"100"], FAR_OFFSETS]),
    ("field", &[&[b"u1", b"i1", b"u4", b"i5", b"u8", b"i8", b"u13", b"u63", b"i64"], NO_FIELDS]),
    ("amount", &[AMOUNTS, VALUES]),
    ("place", &[&[b"0", b"1", b"#0", b"#1", b"#2", b"8", b"9", b"30"], NO_PLACES]),
    ("at", &[&[b"0", b"1", b"5", b"7", b"8", b"13", b"40", b"100"], NO_PLACES]),
    ("pattern", &[PATTERNS]),
    ("cursor", &[&[b"0"], &[b"x", b"", b" 0", b"0x", b"18446744073709551616"]]),
    (
        "type",
        &[&[b"string", b"hash", b"list", b"set", b"zset", b"stream", b"STRING"], &[b"nonesuch"]],
    ),
    ("seconds", &[SECONDS, NO_SECONDS]),
    ("millis", &[MILLIS, NO_SECONDS]),
    ("second", &[MOMENTS_IN_SECONDS, NO_SECONDS]),
    ("milli", &[MOMENTS_IN_MILLIS, NO_SECONDS]),
    ("newid", &[NEW_IDS, NO_IDS]),
    ("id", &[IDS, NO_IDS]),
    ("idmin", &[&[b"-", b"0", b"1", b"(1-1", b"2-1", b"(2", b"(3-0"], NO_IDS]),
    ("idmax", &[&[b"+", b"+", b"3", b"(3-1", b"2-2", b"(2-1", b"7"], NO_IDS]),
    ("group", &[&[b"g1", b"g1", b"g2"], &[b"g3", b""]]),
    ("consumer", &[&[b"c1", b"c2", b"c3"], &[b"c4", b""]]),
    // Entries are idle for almost no time, or for more than the longest of these.
    ("idle", &[&[b"0", b"0", b"500000"], &[b"-1", b"x"]]),
    ("setidle", &[&[b"0", b"1000000", b"5000000"], &[b"-1", b"x"]]),
    ("delivered", &[&[b"0", b"1000", b"4000000000000"], &[b"-1", b"x"]]),
    ("payload", &[PAYLOADS, VALUES]),
    ("badwait", &[&[b"-1", b"x", b""]]),
    ("past", &[&[b"1", b"0", b"-1", b"1000000000"]]),
];

/// Kinds of arguments that are times, all of them far in the future or in the past. Conditions such
/// as `GT` are used only with absolute times (`second`, `milli`), not with relative ones. `past` is
/// only for commands after which Redis deletes an expired key at once: otherwise Redis counts
/// expired keys for a while.
pub(crate) const CLOCK_KINDS: &[&str] = &["seconds", "millis", "second", "milli", "past"];

/// All keys. Their contents are compared at the end of a stream.
pub(crate) const ALL_KEYS: &[&[u8]] = &[
    b"s1", b"s2", b"s3", b"s4", b"", b"h1", b"h2", b"h3", b"l1", b"l2", b"l3", b"m1", b"m2", b"m3",
    b"z1", b"z2", b"z3", b"x1", b"x2", b"x3", b"never",
];

/// Payloads of `DUMP`, which Redis has made, and one with a wrong checksum.
const PAYLOADS: &[&[u8]] = &[
    b"\x00\x04text\x0a\x00|\xf3&m\xca\xb5\xa51",
    b"\x00\xc0\xff\x0a\x00\x0c\x93~$\x85\x08\x9d\xc5",
    b"\x0b\x0e\x02\x00\x00\x00\x03\x00\x00\x00\xfe\xff\x01\x00,\x01\x0a\x00[\x0a\xa8b\xf7\x94`\
      \x0a",
    b"\x02\x03\xc0\x01\x01b\x01a\x0a\x00Dg\xf0\xc6\xe2\xd1.[",
    b"\x04\x02\x01f\xc0\x01\x01g\x04text\x0a\x00\xedx\x93C\xc0\x9f\xd5\xea",
    b"\x11\xc3@@@I\x15I\x00\x00\x00\x0c\x00\x81c\x02\x84-inf\x05\x11\x01\x930.10\xe0\x05\x00\
      \x1f1\x14\x81a\x02\x01\x01\x81b\x02\x832.5\x04\x81e\x02\xf4\x00\x00\x8a]xEc\x01\x09\x81d\
      \x02\x83 8\x01\x04\xff\x0a\x00\xbf\xa3\x10v\x93Y\x8a\x03",
    b"\x13\x01\x10\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\xc3@N@S\x12\
      S\x00\x00\x00 \x00\x03\x01\x01\x01\x02\x01\x81f\x02\x81g\x02\x00 \x09\x00\x00 \x01\x07\
      \x81v\x02\x02\x01\x05\x01\x03 \x0a\x05\x01\x01\x81w\x02\x03 \x0c@\x0a\x0e\xdf\xff\x02\
      \x01\x01\x85other\x06\x01\x01\x06 \x13@/ \" =\x04x\x02\x06\x01\xff\x03\x03\x01\x01\x01\
      \x01\x02\x04\x00\x0a\x00A\xde\xc0\x18\xe2\x11o<",
    b"\x01\x03\x01a\xc0\x07\x01c\x06\x00\x85]\xb8\xb9S:\xd5\x88",
    b"\x09\x11\x02\x01f\x02\x00v1\x01g\x03\x02abcXX\xff\x02\x00}E1\xf8G\xcb\x93|",
    b"\x00\x01v\x0a\x0012345678",
];

const STRING_KEYS: &[&[u8]] = &[b"s1", b"s2", b"s3", b"s4", b""];

const VALUES: &[&[u8]] = &[
    b"",
    b"0",
    b"1",
    b"-1",
    b"10",
    b"text",
    b"other text",
    b"1.5",
    b"-0",
    b"007",
    b" 1",
    b"1 ",
    b"+1",
    b"3.0e3",
    b"0x10",
    b"nan",
    b"inf",
    b"-inf",
    b"9223372036854775807",
    b"9223372036854775808",
    b"1e400",
    b"\x00\xff\r\n",
    b"\xf0\x0f\xaa",
    b"a text of forty-five bytes, one too many to embed",
    b"a text of more than sixty-four bytes, so it is longer than what lists pack",
];

const INTEGERS: &[&[u8]] = &[
    b"0",
    b"1",
    b"1",
    b"2",
    b"-1",
    b"-1",
    b"7",
    b"-13",
    b"100",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775806",
    b"4294967296",
    b"-2147483649",
];

const NO_NUMBER: &[&[u8]] =
    &[b"x", b"", b"01", b"1.5", b"9223372036854775807", b"-9223372036854775808"];

const FLOATS: &[&[u8]] = &[
    b"0",
    b"1",
    b"-1",
    b"0.1",
    b"1.5",
    b"-2.25",
    b"3.0e3",
    b"1e17",
    b"1e-5",
    b"100",
    b"0.3",
    b"-0.0",
    b"123456789.123",
];

/// Scores. They do not include -0 and numbers between 10^17 and 2^62, which Redis stores or formats
/// differently in large sets than in small ones.
const SCORES: &[&[u8]] = &[
    b"0",
    b"1",
    b"1",
    b"2",
    b"3",
    b"-1",
    b"-5",
    b"0.1",
    b"0.2",
    b"3.1",
    b"1e19",
    b"1e300",
    b"inf",
    b"-inf",
    b"1e-5",
    b"0x1p3",
    b"12345678901234567",
    b"0.3e-7",
];

const ENDS: &[&[u8]] = &[
    b"", b"(", b"[", b"-", b"+", b"+x", b"x", b"nan", b"(nan", b" 1", b"1 ", b"1e400", b"(a",
    b"[\xff", b"+\x00x", b"1\x00x", b"-inf", b"+inf", b"[zz", b"0x10",
];

const FAR_OFFSETS: &[&[u8]] =
    &[b"-1", b"4294967296", b"536870912", b"9223372036854775807", b"x", b"", b"01", b"1.5"];

/// Amounts by which bit fields are increased. They do not include the smallest integer, which Redis
/// treats as a large one in saturating bit fields.
const AMOUNTS: &[&[u8]] = &[
    b"0",
    b"1",
    b"-1",
    b"3",
    b"-7",
    b"100",
    b"-129",
    b"9223372036854775807",
    b"-9223372036854775000",
    b"4294967296",
];

const NO_PLACES: &[&[u8]] =
    &[b"-1", b"4294967296", b"9223372036854775807", b"#4294967296", b"x", b"", b"01", b"1.5", b"#"];

const NO_FIELDS: &[&[u8]] = &[b"u64", b"i65", b"i0", b"u", b"", b"x8", b"U8", b"u-1", b"i08"];

/// Keys of sorted sets in which the scores are positions.
pub(crate) const GEO_KEYS: &[&[u8]] = &[b"g1", b"g2", b"g3"];

/// Keys of HyperLogLogs. Only parts of their values are compared, because Redis stores the result
/// of `PFCOUNT` in them.
pub(crate) const LOG_KEYS: &[&[u8]] = &[b"p1", b"p2", b"p3"];

/// Elements of HyperLogLogs of all lengths modulo 8.
const ELEMENTS: &[&[u8]] = &[
    b"",
    b"a",
    b"b",
    b"ab",
    b"abc",
    b"abcd",
    b"abcde",
    b"abcdef",
    b"abcdefg",
    b"abcdefgh",
    b"1",
    b"2",
    b"3",
    b"4",
    b"5",
    b"6",
    b"7",
    b"8",
    b"9",
    b"10",
    b"11",
    b"12",
    b"13",
    b"14",
    b"15",
    b"16",
    b"17",
    b"18",
    b"19",
    b"20",
    b"21",
    b"22",
    b"23",
    b"24",
    b"25",
    b"26",
    b"27",
    b"28",
];

const LONGITUDES: &[&[u8]] =
    &[b"0", b"1.5", b"13.361389", b"-180", b"180", b"-122.4", b"179.99", b"2.35", b"-0.1"];
const LATITUDES: &[&[u8]] =
    &[b"0", b"1.5", b"38.115556", b"-85.05112878", b"85.05112878", b"48.85", b"-70.2", b"81"];
const NO_DEGREES: &[&[u8]] = &[b"180.1", b"-85.1", b"x", b"", b"inf", b"nan", b"1e300", b" 1"];
const NO_RADII: &[&[u8]] = &[b"-1", b"x", b"", b"1e400", b"-inf", b"0x10", b"1e300"];

/// Ids of new entries. They rise, and a stream is removed before they end.
const NEW_IDS: &[&[u8]] = &[
    b"1-*", b"2-*", b"3-*", b"5-*", b"7-*", b"7-*", b"7-*", b"9-*", b"1-1", b"2-1", b"3-0", b"4",
    b"0-1", b"0-*", b"9-1",
];

const IDS: &[&[u8]] = &[
    b"0", b"0-0", b"1", b"1-0", b"1-1", b"2-0", b"2-1", b"3", b"3-0", b"5-0", b"5-1", b"7-0",
    b"7-1", b"7-2", b"7-3", b"9-0", b"9-1", b"4-0",
];

const NO_IDS: &[&[u8]] = &[
    b"-",
    b"+",
    b"$",
    b">",
    b"(",
    b"(-",
    b"(+",
    b"x",
    b"",
    b"1-",
    b"-1",
    b"1-1-1",
    b"1-x",
    b"01-01",
    b" 1",
    b"1 ",
    b"18446744073709551615",
    b"18446744073709551616",
    b"18446744073709551615-18446744073709551615",
    b"(18446744073709551615-18446744073709551615",
    b"(0-0",
    b"4-18446744073709551615",
    b"5\x00x",
    b"1--1",
    b"+3-+0",
];

const PATTERNS: &[&[u8]] = &[
    b"*", b"*", b"s*", b"?1", b"[hs]*", b"[^s]?", b"s[1-2]", b"", b"\\s1", b"s\\", b"[s", b"*1*",
    b"never", b"a*", b"[a-c]", b"?",
];

const SECONDS: &[&[u8]] = &[b"1000", b"5000", b"100000", b"1000000"];
const MILLIS: &[&[u8]] = &[b"1000000", b"5000000", b"100000000", b"1000000000"];
const MOMENTS_IN_SECONDS: &[&[u8]] = &[b"4000000000", b"5000000000", b"9000000000"];
const MOMENTS_IN_MILLIS: &[&[u8]] = &[b"4000000000000", b"5000000000000", b"9000000000123"];
const NO_SECONDS: &[&[u8]] = &[
    b"0",
    b"-1",
    b"x",
    b"",
    b"1.5",
    b"9223372036854775807",
    b"9223372036854775",
    b"9223372036854776",
    b"-9223372036854775808",
];
