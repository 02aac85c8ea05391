//! The values that keys can have: data structures that are independent of keys and commands.

pub(in crate::kv) mod codec;
pub(in crate::kv) mod collection;
pub(in crate::kv) mod content;
pub(in crate::kv) mod copy_on_write;
pub(in crate::kv) mod digest;
pub(in crate::kv) mod double;
pub(in crate::kv) mod element;
pub(in crate::kv) mod encoding;
pub(in crate::kv) mod extended;
pub(in crate::kv) mod geohash;
pub mod glob;
pub(in crate::kv) mod hash;
pub(in crate::kv) mod hyperloglog;
pub(in crate::kv) mod list;
pub(in crate::kv) mod long_string;
pub(in crate::kv) mod number;
pub(in crate::kv) mod rdb;
pub(in crate::kv) mod score_tree;
pub(in crate::kv) mod set;
mod shared_map;
pub(in crate::kv) mod sorted_set;
pub(in crate::kv) mod stream;
pub(in crate::kv) mod string;
pub(in crate::kv) mod trigonometry;
