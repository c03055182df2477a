//! The text of a script, as it is sent, and the hash by which the server knows it.

/// Reads a script: the file that is named, after the `common.lua` beside it.
macro_rules! script {
    ($file:literal) => {
        std::sync::LazyLock::new(|| {
            $crate::storage::redis::script::Script::new(concat!(
                include_str!("common.lua"),
                include_str!($file)
            ))
        })
    };
}
pub(super) use script;

/// A script. A call names it by its hash, and sends its text only if the server does not know it.
pub(super) struct Script {
    pub(super) text: String,
    pub(super) hash: String,
}

impl Script {
    pub(super) fn new(source: &str) -> Self {
        let text = without_comments(source);
        let hash = redis::Script::new(&text).get_hash().to_owned();
        Self { text, hash }
    }
}

/// Removes comments, indentation and empty lines: a server that forgets its scripts is sent the text again and again.
///
/// A comment stands on lines of its own, and no string of a script contains a line break.
fn without_comments(source: &str) -> String {
    let lines = source.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("--"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// No script takes more than that on the wire.
    const TEXT_MAX: usize = 6_600;

    #[test]
    fn the_text_of_a_script_has_no_comments_and_stays_short() {
        let redis = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/storage/redis");
        let mut seen = 0;
        for folder in [redis.clone(), redis.join("quorum")] {
            let common = fs::read_to_string(folder.join("common.lua")).expect("readable");
            for file in fs::read_dir(&folder).expect("a folder") {
                let path = file.expect("readable").path();
                if path.extension().is_none_or(|end| end != "lua") || path.ends_with("common.lua") {
                    continue;
                }
                seen += 1;
                let source = common.clone() + &fs::read_to_string(&path).expect("readable");
                let Script { text, .. } = Script::new(&source);
                for line in text.lines() {
                    // A comment after code would be sent.
                    let comment = line.starts_with("--") || line.contains(" --");
                    assert!(!comment && !line.is_empty(), "{}: {line}", path.display());
                }
                // Only these strings span lines, and a line of theirs could be mistaken for a comment.
                let spans_lines =
                    |line: &str| line.contains("[[") || line.contains("[=") || line.ends_with('\\');
                assert!(!source.lines().any(spans_lines), "{}: a long string or comment", path.display());
                assert!(text.len() <= TEXT_MAX, "{}: {} bytes", path.display(), text.len());
                assert!(source.contains("\n-- Reply:"), "{}: has no legend", path.display());
            }
        }
        assert_eq!(seen, 11);
    }

    #[test]
    fn removing_comments_keeps_code() {
        let source = "-- A header.\nlocal a = '----'\n\n  -- Why.\n  if a then return 1 end\n";
        assert_eq!(without_comments(source), "local a = '----'\nif a then return 1 end\n");
    }
}
