//! Checks of the repository itself: the documents refer to things that exist, and the files are in order.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What is not checked for its language yet. Each is the beginning of a path.
const EXEMPT: [&str; 19] = [
    "crates/leasehold-cli/",
    "crates/leasehold/src/blocking.rs",
    "crates/leasehold/src/clock.rs",
    "crates/leasehold/src/fd.rs",
    "crates/leasehold/src/guard.rs",
    "crates/leasehold/src/lock.rs",
    "crates/leasehold/src/locks.rs",
    "crates/leasehold/src/storage/finding.rs",
    "crates/leasehold/src/storage/memory.rs",
    "crates/leasehold/src/storage/mod.rs",
    "crates/leasehold/src/storage/net/",
    "crates/leasehold/src/storage/sqlite/",
    "crates/leasehold/src/storage/url.rs",
    "crates/leasehold/src/ticket.rs",
    "crates/leasehold/tests/common/net/",
    "crates/leasehold/tests/common/timed.rs",
    // Contains the wrong forms, to find them.
    "crates/leasehold/tests/tidy.rs",
    "docs/architecture.md",
    "docs/guarantees.md",
];

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
    // Joined here, so that this file contains none of them.
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
        // They must be in this order, possibly with others between them.
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
        // Options are read from the list, and from the match arms that set them.
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
    assert!(named > 50, "only {named} tests were recognized");
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
    assert!(named > 50, "only {named} tests were recognized");
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
        // The page of a storage is also its module's documentation, and `cargo doc` checks those links.
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
    assert!(seen > 8, "only {seen} commands were recognized");
}

#[test]
fn programs_are_things() {
    complain(prose_of_the_project().into_iter().filter_map(|(at, text)| {
        let found = person(&text)?;
        Some(format!("{at}: `{found}` is for people only; name the client, the holder or the caller"))
    }));
}

#[test]
fn the_spelling_is_american() {
    complain(prose_of_the_project().into_iter().filter_map(|(at, text)| {
        let found = british(&text)?;
        Some(format!("{at}: `{found}` is British; use the American spelling"))
    }));
}

#[test]
fn the_documentation_of_a_function_begins_with_a_verb() {
    let mut seen = 0;
    complain(governed().into_iter().flat_map(|(path, text)| {
        let mut found = Vec::new();
        for (line, name, first) in documented_functions(&path, &text) {
            seen += 1;
            if !is_third_person(&first) {
                found
                    .push(format!("{path}:{line}: `{name}` begins with `{first}`, not with `Returns` or so"));
            }
        }
        found
    }));
    assert!(seen > 500, "only {seen} functions were recognized");
}

#[test]
fn comments_do_not_cite_numbers_of_a_list_elsewhere() {
    complain(prose_of_the_project().into_iter().filter_map(|(at, text)| {
        // A cell or a heading of a document may be a number.
        let found = rule_number(&text).or_else(|| bare_numbers(&text).filter(|_| !at.contains(".md:")))?;
        Some(format!("{at}: `{found}` is in no list that a reader can open; say it in words"))
    }));
}

#[test]
fn the_checks_of_the_language_find_what_they_are_for() {
    for bad in ["Nobody holds it.", "/// Wakes whoever waits", "somebody else's", "if anybody asks"] {
        assert!(person(bad).is_some(), "{bad}");
    }
    for bad in
        ["its behaviour", "Recognises", "serialised", "is cancelled", "cancelling it", "labelled", "grey"]
    {
        assert!(british(bad).is_some(), "{bad}");
    }
    for bad in ["(rule R1)", "see R10."] {
        assert!(rule_number(bad).is_some(), "{bad}");
    }
    for bad in ["86", "2, 3, 4", " 15 "] {
        assert!(bare_numbers(bad).is_some(), "{bad}");
    }
    for bad in ["Whether", "Is", "A", "The", "What", "returns"] {
        assert!(!is_third_person(bad), "{bad}");
    }
    for good in ["the client waits", "hour, color, canceled, specialist", "Redis 7 and R, in 86 lines", ""] {
        let found = person(good).or_else(|| british(good)).or_else(|| rule_number(good));
        assert_eq!(found.or_else(|| bare_numbers(good)), None, "{good}");
    }
    assert!(is_third_person("Returns") && is_third_person("Sleeps.") && is_third_person("Checks"));
    let source = "/// Whether it is.\n#[must_use]\npub(crate) async fn is_it(&self) {}\n";
    let found = documented_functions("crates/a/src/lib.rs", source);
    assert_eq!(found, [(1, "is_it".to_owned(), "Whether".to_owned())]);
    let line = r#"fail("nobody is there"); // whoever"#;
    assert_eq!(comment_and_messages(line), "nobody is there whoever");
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

/// Fails with all findings, not only the first.
fn complain(found: impl IntoIterator<Item = String>) {
    let found: Vec<_> = found.into_iter().collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns the folders of the storages, without the shared one.
fn storages() -> Vec<PathBuf> {
    let all = folders(&root().join("crates/leasehold/src/storage"));
    all.into_iter().filter(|folder| !folder.ends_with("net")).collect()
}

/// Returns the files whose language is checked, by their path in the project.
fn governed() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (path, text) in texts() {
        let path = path.strip_prefix(root()).expect("a file of the project").to_string_lossy().into_owned();
        let known =
            ["crates/", "docs/", "README.md", "CONTRIBUTING.md"].iter().any(|part| path.starts_with(part));
        if known && !EXEMPT.iter().any(|part| path.starts_with(part)) {
            all.push((path, text));
        }
    }
    all
}

/// Returns each line of prose with its place: of documents, and the comments and messages of sources. What stands
/// between backticks is not prose.
fn prose_of_the_project() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (path, text) in governed() {
        let mut code = false;
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            let prose = match path.rsplit('.').next() {
                Some("rs") => comment_and_messages(line),
                Some("md") => {
                    let fence = line.starts_with("```");
                    code ^= fence;
                    if code || fence { String::new() } else { line.to_owned() }
                }
                Some("sql") => {
                    line.split_once("--").map(|(_, comment)| comment.to_owned()).unwrap_or_default()
                }
                Some("toml") => {
                    line.split_once('#').map(|(_, comment)| comment.to_owned()).unwrap_or_default()
                }
                _ => String::new(),
            };
            let prose: Vec<_> = prose.split('`').step_by(2).collect();
            all.push((format!("{path}:{}", i + 1), prose.join(" ")));
        }
    }
    assert!(all.len() > 10_000, "only {} lines were read", all.len());
    all
}

/// Returns the comment of a line of Rust, or the texts in it that consist of several words.
fn comment_and_messages(line: &str) -> String {
    if line.starts_with("//") {
        return line.trim_start_matches(['/', '!']).trim().to_owned();
    }
    let (code, comment) = line.split_once(" // ").unwrap_or((line, ""));
    let texts = code.split('"').skip(1).step_by(2).filter(|text| text.trim().contains(' '));
    texts.chain([comment]).collect::<Vec<_>>().join(" ")
}

/// Returns each function of a source file that is documented, except tests: its line, its name, and the first word
/// of its documentation. The cases of the suite are tests, too.
fn documented_functions(path: &str, text: &str) -> Vec<(usize, String, String)> {
    let (is_source, is_test) = (path.ends_with(".rs"), path.contains("/tests/") || path.contains("/cases/"));
    let (mut all, mut first, mut tests) = (Vec::new(), None, false);
    for (i, line) in text.lines().enumerate().filter(|_| is_source && !is_test) {
        let line = line.trim();
        if let Some(doc) = line.strip_prefix("///") {
            let word = || doc.split_whitespace().next().unwrap_or_default().to_owned();
            first.get_or_insert_with(|| (i + 1, word()));
        } else if line.starts_with("#[") || line.starts_with("//") {
            tests |= line.starts_with("#[test]") || line.contains("::test");
        } else {
            let is_head = |before: &str| {
                before
                    .split_whitespace()
                    .all(|word| ["pub", "const", "async"].contains(&word) || word.starts_with("pub("))
            };
            let function = line.split_once("fn ").filter(|(before, _)| is_head(before));
            let name = function.and_then(|(_, rest)| words(rest).next());
            if let (Some((line, word)), Some(name), false) = (first.take(), name, tests) {
                all.push((line, name.to_owned(), word));
            }
            (first, tests) = (None, false);
        }
    }
    all
}

/// Returns the first word that is for people only.
fn person(text: &str) -> Option<String> {
    let people = ["whoever", "nobody", "somebody", "anybody"];
    words(text).find(|word| people.contains(&word.to_lowercase().as_str())).map(str::to_owned)
}

/// Returns the first word in a British spelling.
fn british(text: &str) -> Option<String> {
    const OUR: [&str; 8] = ["behavi", "col", "fav", "harb", "hon", "lab", "neighb", "rum"];
    const ISE: &str = "author canonical character custom final general initial maxim minim normal optim organ \
                       priorit real recogn serial special standard summar synchron token util visual";
    const DOUBLED: [&str; 5] = ["cancel", "label", "model", "signal", "travel"];
    const OTHERS: &str = "afterwards analyse analysed catalogue centre centred defence grey judgement licence \
                          licences towards";
    let is_british = |word: &&str| {
        let word = word.to_lowercase();
        let after = |stem: &str, middle: &str| word.strip_prefix(stem)?.strip_prefix(middle);
        let is_verb = |rest: &str| ["e", "ed", "er", "es", "ing", "able", "ation"].contains(&rest);
        OUR.iter().any(|stem| after(stem, "our").is_some())
            || ISE.split_whitespace().any(|stem| after(stem, "is").is_some_and(is_verb))
            || DOUBLED
                .iter()
                .any(|stem| after(stem, "l").is_some_and(|rest| ["ed", "er", "ing"].contains(&rest)))
            || OTHERS.split_whitespace().any(|other| other == word)
    };
    words(text).flat_map(|word| word.split('_')).find(is_british).map(str::to_owned)
}

/// Returns the first number of a rule, such as the letter R with a 1.
fn rule_number(text: &str) -> Option<String> {
    words(text).find(|word| word.strip_prefix('R').is_some_and(is_number)).map(str::to_owned)
}

/// Returns the text if it consists of numbers only.
fn bare_numbers(text: &str) -> Option<String> {
    let is_bare = words(text).next().is_some() && words(text).all(is_number);
    is_bare.then(|| text.trim().to_owned())
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())
}

/// Returns `true` if the word looks like a verb in the third person.
fn is_third_person(word: &str) -> bool {
    const NO_VERBS: [&str; 7] = ["Always", "As", "Has", "Is", "Its", "This", "Was"];
    let plain = word.trim_end_matches([',', ':', '.']);
    plain.ends_with('s') && plain.starts_with(|c: char| c.is_ascii_uppercase()) && !NO_VERBS.contains(&plain)
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

/// Returns every file that people write, with its text.
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
    let ends = ["rs", "md", "toml", "sql", "lua"];
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

/// Returns the texts between backticks, each within a line.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    prose(text).flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Returns the lines outside of code blocks.
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

/// Returns `true` if it looks like the name of a test, with at least four words.
fn is_sentence(span: &str) -> bool {
    let word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    span.split('_').count() > 3 && span.split('_').all(word)
}
