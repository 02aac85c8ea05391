//! The manual, page by page. The pages are Markdown files in `src/guide/`, readable on a code host
//! and here.
//!
//! | page | content |
//! |---|---|
//! | [`architecture`] | the path of a write and of a read, threads, queues and their limits |
//! | [`guarantees`] | what clients can rely on, the safety rules and their tests |
//! | [`deployment`] | packages, three machines, Kubernetes, rolling upgrade, replacing a machine |
//! | [`security`] | passwords, users and their permissions, what is not protected |
//! | [`monitoring`] | alarms, Prometheus, and the fields of `INFO` |
//! | [`metrics`] | all metrics that Prometheus can read |
//! | [`operations`] | one machine, disks, memory, snapshots, refused starts, replacing a replica |
//! | [`migration`] | moving data from and to Redis: files, running servers |
//! | [`encryption`] | TLS of clients and between replicas, certificates |
//! | [`coordination`] | reads of key ranges, following changes, reads that may lag, locks |
//! | [`configuration`] | every setting, with its default and unit |
//! | [`lua`] | what Lua scripts see, and what ends them |
//! | [`compatibility`] | every Redis command and what differs |
//! | [`libraries`] | job queues, locks, limiters and caches that run unmodified |
//! | [`simulator`] | a tutorial: run, read a trace, replay a seed, write a scenario |
//! | [`performance`] | how to measure and how to read the results |
//! | [`contributing`] | where things go, how to add a command or a safety rule, naming |

/// Declares one page of the manual as a module with the page's Markdown file as its documentation.
/// Link definitions for rustdoc precede the text: links between pages lead to files on a code host,
/// but to modules in rustdoc, since the first definition of a link counts. The text is included
/// only for rustdoc, so that editing a page does not recompile the library.
macro_rules! page {
    ($name:ident, $file:literal) => {
        #[cfg_attr(doc, doc = "[architecture]: crate::guide::architecture")]
        #[cfg_attr(doc, doc = "[guarantees]: crate::guide::guarantees")]
        #[cfg_attr(doc, doc = "[deployment]: crate::guide::deployment")]
        #[cfg_attr(doc, doc = "[security]: crate::guide::security")]
        #[cfg_attr(doc, doc = "[monitoring]: crate::guide::monitoring")]
        #[cfg_attr(doc, doc = "[metrics]: crate::guide::metrics")]
        #[cfg_attr(doc, doc = "[coordination]: crate::guide::coordination")]
        #[cfg_attr(doc, doc = "[scripting]: crate::guide::scripting")]
        #[cfg_attr(doc, doc = "[encryption]: crate::guide::encryption")]
        #[cfg_attr(doc, doc = "[operations]: crate::guide::operations")]
        #[cfg_attr(doc, doc = "[migration]: crate::guide::migration")]
        #[cfg_attr(doc, doc = "[configuration]: crate::guide::configuration")]
        #[cfg_attr(doc, doc = "[compatibility]: crate::guide::compatibility")]
        #[cfg_attr(doc, doc = "[lua]: crate::guide::lua")]
        #[cfg_attr(doc, doc = "[libraries]: crate::guide::libraries")]
        #[cfg_attr(doc, doc = "[simulator]: crate::guide::simulator")]
        #[cfg_attr(doc, doc = "[performance]: crate::guide::performance")]
        #[cfg_attr(doc, doc = "[contributing]: crate::guide::contributing")]
        #[cfg_attr(doc, doc = "")]
        #[cfg_attr(doc, doc = include_str!($file))]
        #[cfg_attr(not(doc), doc = "A page of the manual.")]
        pub mod $name {}
    };
}

page!(architecture, "architecture.md");
page!(guarantees, "guarantees.md");
page!(deployment, "deployment.md");
page!(security, "security.md");
page!(monitoring, "monitoring.md");
page!(metrics, "metrics.md");
page!(coordination, "coordination.md");
page!(scripting, "scripting.md");
page!(operations, "operations.md");
page!(migration, "migration.md");
page!(encryption, "encryption.md");
page!(configuration, "configuration.md");
page!(lua, "lua.md");
page!(compatibility, "compatibility.md");
page!(libraries, "libraries.md");
page!(simulator, "simulator.md");
page!(performance, "performance.md");
page!(contributing, "contributing.md");
