//! Lints the repository itself: that the documents speak of what there is, and that the files are in order.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn text_has_no_tabs_no_trailing_spaces_and_ends_with_a_newline() {
    complain(texts().flat_map(|(path, text)| {
        let mut found = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let at = format!("{}:{}", path.display(), i + 1);
            if line.contains('\t') {
                found.push(format!("{at}: a tab"));
            }
            if line.ends_with(' ') {
                found.push(format!("{at}: spaces at the end"));
            }
        }
        if !text.ends_with('\n') || text.ends_with("\n\n") {
            found.push(format!("{}: ends with exactly one newline", path.display()));
        }
        found
    }));
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file is not found.
    let marks = [["TO", "DO"], ["FIX", "ME"], ["X", "XX"], ["to", "do!("], ["unimple", "mented!("]];
    let marks = marks.map(|parts| parts.concat());
    complain(texts().flat_map(|(path, text)| {
        let found = marks.iter().filter(|mark| text.contains(*mark)).cloned();
        found.map(|mark| format!("{}: {mark}", path.display())).collect::<Vec<_>>()
    }));
}

#[test]
fn every_storage_has_its_page() {
    const OUTLINE: [&str; 6] =
        ["What is stored", "How it locks", "Guarantees", "URL", "Versions tested", "Example"];
    complain(storages().into_iter().flat_map(|folder| {
        let page = read(&folder.join("README.md"));
        // In this order; there may be others between them.
        let headings = prose(&page).filter_map(|line| line.strip_prefix("# "));
        let headings: Vec<_> = headings.filter(|heading| OUTLINE.contains(heading)).collect();
        let wrong = headings != OUTLINE;
        wrong.then(|| format!("{}: its outline is {headings:?}, not {OUTLINE:?}", folder.display()))
    }));
}

#[test]
fn every_url_option_is_on_the_page_of_its_storage() {
    complain(storages().into_iter().flat_map(|folder| {
        let (page, config) = (read(&folder.join("README.md")), read(&folder.join("config.rs")));
        // Those of the list, and those of the arms that set them.
        let list = config.split_once("url.options(&[").and_then(|(_, rest)| rest.split_once(']'));
        let list = list.map_or("", |(list, _)| list).split(',').map(|option| option.trim().trim_matches('"'));
        let arms = config.lines().filter(|line| line.contains("=>"));
        let arms = arms.filter_map(|line| line.trim().strip_prefix("(\"")?.split_once("\", "));
        let mut options: Vec<_> =
            list.chain(arms.map(|(option, _)| option)).filter(|o| !o.is_empty()).collect();
        options.dedup();
        assert!(!options.is_empty(), "{}: reads no option", folder.display());
        let missing = options.into_iter().filter(|option| !page.contains(&format!("| `{option}` |")));
        missing.map(|option| format!("{}: says nothing of {option}", folder.display())).collect::<Vec<_>>()
    }));
}

#[test]
fn every_test_named_in_the_guarantees_exists() {
    let sources = sources();
    let tests: HashSet<_> = sources.iter().flat_map(|(_, text)| functions(text)).collect();
    let cases = root().join("crates/leasehold-conformance/src/cases");
    let guarantees = read(&root().join("docs/guarantees.md"));
    let mut named = 0;
    complain(spans(&guarantees).filter_map(|span| {
        if let Some((group, case)) = span.split_once("::") {
            let lower =
                |word: &str| word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if !lower(group) || !lower(case) {
                return None;
            }
            named += 1;
            let file = fs::read_to_string(cases.join(format!("{group}.rs"))).unwrap_or_default();
            (!words(&file).any(|word| word == case)).then(|| format!("docs/guarantees.md: no case {span}"))
        } else if is_sentence(span) {
            named += 1;
            (!tests.contains(span)).then(|| format!("docs/guarantees.md: no test {span}"))
        } else {
            None
        }
    }));
    assert!(named > 50, "only {named} tests were recognised");
}

#[test]
fn every_feature_and_bug_of_the_originals_has_a_test_that_exists() {
    let sources = sources();
    let tests: HashSet<_> = sources.iter().flat_map(|(_, text)| functions(text)).collect();
    let parity = read(&root().join("docs/parity.md"));
    let rows = prose(&parity).filter(|line| line.starts_with("| ") && !line.ends_with("| Test |"));
    let mut named = 0;
    complain(rows.filter_map(|row| {
        let mut cells = row.trim_matches('|').split(" | ");
        let (first, last) = (cells.next().unwrap_or_default().trim(), cells.last().unwrap_or_default());
        let missing = spans(last).find(|span| is_sentence(span) && !tests.contains(span)).map(str::to_owned);
        named += spans(last).filter(|span| is_sentence(span)).count();
        missing.map(|test| format!("docs/parity.md: {first}: no test {test}"))
    }));
    assert!(named > 50, "only {named} tests were recognised");
    for (package, bugs) in [("distributed-locks", 16), ("redislock", 11)] {
        let section = parity.split("\n## ").find(|section| section.starts_with(&format!("npm `{package}`")));
        let section = section.expect("a section");
        for bug in 1..=bugs {
            assert!(section.contains(&format!("\n| {bug} | ")), "docs/parity.md: {package} has no bug {bug}");
        }
    }
}

#[test]
fn documents_speak_of_methods_that_exist() {
    let sources = sources();
    let known: HashSet<_> = sources.iter().flat_map(|(_, text)| words(text)).collect();
    complain(documents().into_iter().flat_map(|(path, text)| {
        let missing = |span: &str| {
            let (of, method) = span.split_once("::")?;
            let upper = of.starts_with(|c: char| c.is_ascii_uppercase());
            let method = method.split(['(', ' ']).next()?;
            (upper && !(known.contains(of) && known.contains(method))).then(|| span.to_owned())
        };
        let missing: Vec<_> = spans(&text).filter_map(missing).collect();
        missing
            .into_iter()
            .map(move |span| format!("{}: there is no {span}", path.display()))
            .collect::<Vec<_>>()
    }));
}

#[test]
fn links_lead_somewhere() {
    complain(documents().into_iter().flat_map(|(path, text)| {
        let folder = path.parent().expect("a file is in a folder").to_owned();
        let targets =
            text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        // Pages of storages are also those of modules; `cargo doc` looks after such links.
        let local = targets.filter(|target| !target.contains("://") && !target.starts_with("super::"));
        let dead = local.filter(|target| {
            let file = target.split('#').next().unwrap_or_default();
            !file.is_empty() && !folder.join(file).exists()
        });
        dead.map(|target| format!("{}: {target} is not there", path.display())).collect::<Vec<_>>()
    }));
}

#[test]
fn every_exit_code_is_in_the_readme() {
    let readme = read(&root().join("README.md"));
    let exit = read(&root().join("crates/leasehold-cli/src/exit.rs"));
    let codes =
        exit.lines().filter_map(|line| line.trim().strip_suffix(',')?.rsplit_once(" => ")?.1.parse().ok());
    let codes: Vec<u8> = codes.collect();
    assert!(codes.contains(&75) && codes.contains(&76), "{codes:?}");
    complain(codes.into_iter().filter_map(|code| {
        let rows = readme.lines().filter(|line| line.starts_with('|'));
        let mut first = rows.filter_map(|row| row.split('|').nth(1));
        let there = first.any(|cell| cell.split(',').any(|listed| listed.trim() == code.to_string()));
        (!there).then(|| format!("README.md: no exit code {code}"))
    }));
}

#[test]
fn paths_in_the_documents_exist() {
    let is_path = |span: &str| {
        let known = ["crates/", "docs/", "scripts/"].iter().any(|folder| span.starts_with(folder));
        known && !span.contains(['<', '*', ' '])
    };
    complain(documents().into_iter().flat_map(|(path, text)| {
        let missing = spans(&text).filter(|span| is_path(span) && !root().join(span).exists());
        missing.map(|span| format!("{}: there is no {span}", path.display())).collect::<Vec<_>>()
    }));
}

#[test]
fn commands_in_the_documents_exist() {
    let args = read(&root().join("crates/leasehold-cli/src/args.rs"));
    let known: HashSet<_> = words(&args).collect();
    let is_command = |word: &str| {
        let (first, rest) = word.split_at(1);
        known.contains(format!("{}{rest}", first.to_uppercase()).as_str())
    };
    let mut seen = 0;
    complain(documents().into_iter().flat_map(|(path, text)| {
        let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("$ "));
        let calls = lines.filter_map(|line| line.split_once("leasehold ")).map(|(_, rest)| rest);
        let mut missing = Vec::new();
        for call in calls.filter(|call| call.starts_with(|c: char| c.is_ascii_lowercase())) {
            seen += 1;
            let call = call.split(" #").next().unwrap_or_default();
            let mut words = call.split([' ', ')']).take_while(|word| *word != "--");
            missing.extend(words.next().filter(|command| !is_command(command)));
            let options = words.filter_map(|word| word.strip_prefix("--"));
            missing.extend(options.filter(|option| !known.contains(option.replace('-', "_").as_str())));
        }
        let missing = missing.into_iter().map(|word| format!("{}: there is no {word}", path.display()));
        missing.collect::<Vec<_>>()
    }));
    assert!(seen > 8, "only {seen} commands were recognised");
}

#[test]
fn the_changelog_goes_on() {
    let changelog = read(&root().join("CHANGELOG.md"));
    let first = changelog.lines().find(|line| line.starts_with("## "));
    assert_eq!(first, Some("## Unreleased"));
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    complain(folders(&root().join("crates")).into_iter().filter_map(|folder| {
        let manifest = read(&folder.join("Cargo.toml"));
        (!manifest.contains("[lints]\nworkspace = true"))
            .then(|| format!("{}: has its own lints", folder.display()))
    }));
}

#[test]
#[cfg(unix)]
fn scripts_are_executable_and_stop_at_the_first_error() {
    use std::os::unix::fs::PermissionsExt;
    complain(scripts().into_iter().flat_map(|path| {
        let (mode, text) = (fs::metadata(&path).expect("it was listed").permissions().mode(), read(&path));
        let mut found = Vec::new();
        if mode & 0o111 == 0 {
            found.push(format!("{}: is not executable", path.display()));
        }
        if !text.starts_with("#!/usr/bin/env bash\n") || !text.contains("\nset -euo pipefail\n") {
            found.push(format!("{}: does not stop at the first error", path.display()));
        }
        found
    }));
}

/// Fails with everything that was found, not only the first.
fn complain(found: impl IntoIterator<Item = String>) {
    let found: Vec<_> = found.into_iter().collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The storages' folders, without what those over a network share.
fn storages() -> Vec<PathBuf> {
    let all = folders(&root().join("crates/leasehold/src/storage"));
    all.into_iter().filter(|folder| !folder.ends_with("net")).collect()
}

fn documents() -> Vec<(PathBuf, String)> {
    texts().filter(|(path, _)| path.extension().is_some_and(|end| end == "md")).collect()
}

fn sources() -> Vec<(PathBuf, String)> {
    texts().filter(|(path, _)| path.extension().is_some_and(|end| end == "rs")).collect()
}

fn scripts() -> Vec<PathBuf> {
    let mut scripts = vec![root().join(".ci/run")];
    scripts.extend(entries(&root().join("scripts")));
    scripts
}

/// Everything that people write, with its text.
fn texts() -> impl Iterator<Item = (PathBuf, String)> {
    let mut files = scripts();
    for entry in entries(&root()) {
        if entry.is_file() && is_text(&entry) {
            files.push(entry);
        }
    }
    for folder in ["crates", "docs"] {
        walk(&root().join(folder), &mut files);
    }
    files.into_iter().map(|path| {
        let text = read(&path);
        (path, text)
    })
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in entries(folder) {
        if entry.is_dir() && entry.file_name().is_some_and(|name| name != "target") {
            walk(&entry, files);
        } else if is_text(&entry) {
            files.push(entry);
        }
    }
}

fn is_text(path: &Path) -> bool {
    let ends = ["rs", "md", "toml", "sql"];
    path.extension().and_then(|end| end.to_str()).is_some_and(|end| ends.contains(&end))
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    entries(folder).into_iter().filter(|path| path.is_dir()).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut entries: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    entries.sort();
    entries
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What stands between backticks on one line.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    prose(text).flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The lines that are not in a block of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn functions(text: &str) -> impl Iterator<Item = &str> {
    text.split("fn ").skip(1).filter_map(|rest| words(rest).next())
}

/// Whether it reads as the name of a test: at least three words.
fn is_sentence(span: &str) -> bool {
    let word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    span.split('_').count() > 3 && span.split('_').all(word)
}
