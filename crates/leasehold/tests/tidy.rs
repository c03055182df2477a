//! Checks of the repository itself: the documents refer to things that exist, and the files are in order.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The most lines of a function, from its head to its closing brace.
const LONGEST_FUNCTION: usize = 55;

/// What is not checked for its language yet. Each is the beginning of a path.
const EXEMPT: [&str; 1] = [
    // Contains the wrong forms, to find them.
    "crates/leasehold/tests/tidy.rs",
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
    let all = storages();
    assert!(all.len() > 3, "only {} storages were recognized", all.len());
    complain(all.into_iter().flat_map(|folder| {
        let page = read(&folder.join("README.md"));
        // They must be in this order, possibly with others between them.
        let headings = outside_of_code(&page).filter_map(|line| line.strip_prefix("# "));
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
fn every_test_named_in_the_guarantees_and_the_invariants_exists() {
    let sources = sources();
    let tests: HashSet<_> = sources.iter().flat_map(|(_, text)| functions(text)).collect();
    let cases = root().join("crates/leasehold-conformance/src/cases");
    let pages = ["docs/guarantees.md", "docs/architecture.md"].map(|page| (page, read(&root().join(page))));
    let mut named = 0;
    let spans = pages.iter().flat_map(|(page, text)| spans(text).map(move |span| (page, span)));
    complain(spans.filter_map(|(page, span)| {
        if let Some((group, case)) = span.split_once("::") {
            let lower =
                |word: &str| word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if !lower(group) || !lower(case) {
                return None;
            }
            named += 1;
            let file = fs::read_to_string(cases.join(format!("{group}.rs"))).unwrap_or_default();
            (!words(&file).any(|word| word == case)).then(|| format!("{page}: no case {span}"))
        } else if is_sentence(span) {
            named += 1;
            (!tests.contains(span)).then(|| format!("{page}: no test {span}"))
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
    let rows = outside_of_code(&parity).filter(|line| line.starts_with("| ") && !line.ends_with("| Test |"));
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
        let dead = links(&text).filter(|target| {
            // The page of a storage is also its module's documentation, and `cargo doc` checks those links.
            let is_item = target.starts_with("super") || target.starts_with("crate::");
            let file = target.split('#').next().unwrap_or_default();
            !is_item && !file.contains("://") && !file.is_empty() && !folder.join(file).exists()
        });
        dead.map(|target| format!("{}: {target} is not there", path.display())).collect::<Vec<_>>()
    }));
}

/// crates.io shows the README, too, and does not know where its files are.
#[test]
fn links_of_the_readme_are_complete_and_lead_somewhere() {
    const REPOSITORY: &str = "https://github.com/leasehold/leasehold/blob/main/";
    const PAGES: &str = "https://docs.rs/leasehold/latest/leasehold/";
    let crates = root().join("crates/leasehold/src");
    let readme = read(&root().join("README.md"));
    let mut seen = 0;
    complain(links(&readme).filter_map(|target| {
        seen += 1;
        if let Some(path) = target.strip_prefix(REPOSITORY) {
            (!root().join(path).exists()).then(|| format!("README.md: {target}: there is no {path}"))
        } else if let Some(module) = target.strip_prefix(PAGES) {
            let module = module.trim_end_matches('/');
            let is_page = module.strip_prefix("docs/").is_some_and(|page| {
                read(&crates.join("docs.rs")).contains(&format!("\npub mod {page} {{}}"))
            });
            let is_module = crates.join(module).join("mod.rs").exists() || module.is_empty();
            (!is_page && !is_module).then(|| format!("README.md: {target}: there is no module {module}"))
        } else {
            (!target.starts_with("https://")).then(|| format!("README.md: {target} needs its whole address"))
        }
    }));
    assert!(seen > 12, "only {seen} links were recognized");
}

#[test]
fn every_scheme_is_where_users_look_for_it() {
    let locks = read(&root().join("crates/leasehold/src/locks.rs"));
    let (before, _) = locks.split_once("pub async fn connect(").expect("the function");
    let table: Vec<_> =
        before.lines().rev().skip(1).take_while(|line| line.trim().starts_with("///")).collect();
    let readme = read(&root().join("README.md"));
    let schemes = |rows: &mut dyn Iterator<Item = &str>| -> HashSet<String> {
        let cells = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
        cells.filter_map(|cell| cell.split_once(':')).map(|(scheme, _)| scheme.to_owned()).collect()
    };
    let in_locks = schemes(&mut table.into_iter());
    let in_readme = schemes(&mut readme.lines().filter(|line| line.starts_with("| `")));
    complain(leasehold::storage::schemes().flat_map(|scheme| {
        let connect = (!in_locks.contains(scheme))
            .then(|| format!("locks.rs: the table of `Locks::connect` does not list `{scheme}:`"));
        // The README has a row for each storage, and not for each form of its URL.
        let plain = scheme.split('+').next().unwrap_or_default();
        let row =
            (!in_readme.contains(plain)).then(|| format!("README.md: no storage has a row with `{plain}:`"));
        connect.into_iter().chain(row)
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
fn every_crate_is_in_the_tree() {
    let page = read(&root().join("docs/architecture.md"));
    let (_, tree) = page.split_once("\n## The tree\n").expect("a section");
    let (tree, _) = tree.split_once("\n## ").expect("another section");
    complain(folders(&root().join("crates")).into_iter().filter_map(|folder| {
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let line = format!("\ncrates/{name}/ ");
        (!tree.contains(&line)).then(|| format!("docs/architecture.md: the tree lacks crates/{name}/"))
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
    // All files of the project, except for the examples in this one.
    let all = texts_by_path().into_iter().filter(|(path, _)| !path.ends_with("tests/tidy.rs"));
    complain(written(all).into_iter().filter_map(|(at, text)| {
        // A cell or a heading of a document may be a number.
        let found = rule_number(&text).or_else(|| bare_numbers(&text).filter(|_| !at.contains(".md:")))?;
        Some(format!("{at}: `{found}` is in no list that a reader can open; say it in words"))
    }));
}

#[test]
fn invariants_are_referred_to_by_a_number_that_exists() {
    let architecture = read(&root().join("docs/architecture.md"));
    let (_, section) = architecture.split_once("\n## Invariants\n").expect("a section");
    let numbers: Vec<usize> =
        section.lines().filter_map(|line| line.split_once(". **")?.0.parse().ok()).collect();
    let last = numbers.len();
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "the numbers follow each other");
    assert!(last >= 13, "only {last} invariants were recognized");
    let mut seen = 0;
    complain(texts_by_path().into_iter().flat_map(|(path, text)| {
        let cited = cited_invariants(&text);
        seen += cited.len();
        let unknown = cited.into_iter().filter(|number| !(1..=last).contains(number));
        unknown.map(|number| format!("{path}: there is no invariant {number}")).collect::<Vec<_>>()
    }));
    assert!(seen > 0, "no reference was recognized");
}

#[test]
fn no_function_is_longer_than_a_page() {
    let mut long = Vec::new();
    let mut seen = 0;
    for (path, text) in texts_by_path() {
        let is_test =
            ["/tests/", "/tests.rs", "/cases/", "/engine/sim"].iter().any(|part| path.contains(part));
        if !path.ends_with(".rs") || !path.contains("/src/") || is_test {
            continue;
        }
        for (name, lines) in lengths_of_functions(&text) {
            seen += 1;
            if lines > LONGEST_FUNCTION {
                long.push((path.clone(), name, lines));
            }
        }
    }
    assert!(seen > 2000, "only {seen} functions were recognized");
    complain(long.iter().map(|(path, name, lines)| format!("{path}: `{name}` has {lines} lines; split it")));
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
    let long = "impl A {\n    fn a() {\n        1\n    }\n\n    fn b(\n        c: D,\n    );\n    fn c() {}\n}\n\
                #[cfg(test)]\nmod tests {\n    fn d() {\n    }\n}\n";
    assert_eq!(lengths_of_functions(long), [("a".to_owned(), 3), ("c".to_owned(), 1)]);
    assert_eq!(cited_invariants("invariant 3, Invariants 2 and 13; of two invariants. 5"), [3, 2, 13]);
    let line = r#"fail("nobody is there"); // whoever"#;
    assert_eq!(comment_and_messages(line), "nobody is there whoever");
    let behind_code = written([("a.rs".to_owned(), "f(); // 86".to_owned())]);
    assert_eq!(behind_code, [("a.rs:1".to_owned(), "86".to_owned())]);
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
fn a_published_crate_has_what_a_registry_shows() {
    let mut published = 0;
    complain(folders(&root().join("crates")).into_iter().flat_map(|folder| {
        let manifest = read(&folder.join("Cargo.toml"));
        if manifest.contains("\npublish = false\n") {
            return Vec::new();
        }
        published += 1;
        let value = |key: &str| {
            let line = manifest.lines().find(|line| line.split(' ').next() == Some(key))?;
            line.split_once(" = ").map(|(_, value)| value.to_owned())
        };
        let keys =
            ["description", "license.workspace", "repository.workspace", "keywords", "categories", "readme"];
        let mut missing: Vec<_> =
            keys.into_iter().filter(|key| value(key).is_none()).map(str::to_owned).collect();
        let keywords = value("keywords").unwrap_or_default();
        let keywords: Vec<_> = keywords.split('"').skip(1).step_by(2).collect();
        if keywords.len() > 5 || keywords.iter().any(|word| word.len() > 20) {
            missing.push("at most five keywords of at most 20 letters".to_owned());
        }
        let is_library = folder.join("src/lib.rs").exists();
        if is_library && !manifest.contains("[package.metadata.docs.rs]\nall-features = true\n") {
            missing.push("the pages of every feature on docs.rs".to_owned());
        }
        let readme = value("readme").unwrap_or_default();
        let files = [readme.trim_matches('"'), "LICENSE-MIT", "LICENSE-APACHE"];
        missing.extend(files.into_iter().filter(|file| !folder.join(file).is_file()).map(str::to_owned));
        let missing = missing.into_iter().map(|what| format!("{}: lacks {what}", folder.display()));
        missing.collect::<Vec<_>>()
    }));
    assert_eq!(published, 3, "what is published is decided, and not forgotten");
}

#[test]
fn every_feature_is_documented_and_full_has_all() {
    let manifest = read(&root().join("crates/leasehold/Cargo.toml"));
    let library = read(&root().join("crates/leasehold/src/lib.rs"));
    let (_, features) = manifest.split_once("\n[features]\n").expect("the features");
    let (features, _) = features.split_once("\n[").expect("another section");
    let features: Vec<_> = features.lines().filter_map(|line| line.split_once(" = ")).collect();
    let public = features.iter().filter(|(name, _)| *name != "default" && !name.starts_with(['_', '#']));
    let (_, full) = features.iter().find(|(name, _)| *name == "full").expect("the feature of all storages");
    complain(public.flat_map(|(name, _)| {
        let undocumented = !library.contains(&format!("//! | `{name}` |"));
        let left_out = *name != "full" && !full.contains(&format!("\"{name}\""));
        let undocumented = undocumented.then(|| format!("lib.rs: the table of features lacks `{name}`"));
        undocumented.into_iter().chain(left_out.then(|| format!("Cargo.toml: `full` lacks `{name}`")))
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
    let all = all.into_iter().filter(|folder| !folder.ends_with("net"));
    // A storage in the folder of another one, as the quorum is, has options of its own.
    let is_storage = |folder: &PathBuf| folder.join("config.rs").exists();
    all.flat_map(|folder| {
        let inner = folders(&folder).into_iter().filter(is_storage).collect::<Vec<_>>();
        [vec![folder], inner].concat()
    })
    .collect()
}

/// Returns every file that people write, by its path in the project.
fn texts_by_path() -> Vec<(String, String)> {
    let relative = |path: &Path| {
        path.strip_prefix(root()).expect("a file of the project").to_string_lossy().into_owned()
    };
    texts().map(|(path, text)| (relative(&path), text)).collect()
}

/// Returns the files whose language is checked, by their path in the project.
fn governed() -> Vec<(String, String)> {
    let known = |path: &str| {
        ["crates/", "docs/", "README.md", "CONTRIBUTING.md"].iter().any(|part| path.starts_with(part))
    };
    let all = texts_by_path().into_iter().filter(|(path, _)| known(path));
    all.filter(|(path, _)| !EXEMPT.iter().any(|part| path.starts_with(part))).collect()
}

/// Returns each line of prose with its place: of documents, and the comments and messages of sources. What stands
/// between backticks is not prose.
fn prose_of_the_project() -> Vec<(String, String)> {
    let all = written(governed());
    assert!(all.len() > 10_000, "only {} lines were read", all.len());
    all
}

/// Returns what is written for people on each line of the files, with its place.
fn written(files: impl IntoIterator<Item = (String, String)>) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (path, text) in files {
        let mut code = false;
        let behind =
            |line: &str, mark: &str| line.split_once(mark).map_or("", |(_, comment)| comment).to_owned();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            let prose = match path.rsplit('.').next() {
                Some("rs") => comment_and_messages(line),
                Some("md") => {
                    let fence = line.starts_with("```");
                    code ^= fence;
                    if code || fence { String::new() } else { line.to_owned() }
                }
                Some("sql" | "lua") => behind(line, "--"),
                Some("toml") => behind(line, "#"),
                _ => String::new(),
            };
            let prose: Vec<_> = prose.split('`').step_by(2).collect();
            all.push((format!("{path}:{}", i + 1), prose.join(" ")));
        }
    }
    all
}

/// Returns the comment of a line of Rust, or the texts in it that consist of several words.
fn comment_and_messages(line: &str) -> String {
    if line.starts_with("//") {
        return line.trim_start_matches(['/', '!']).trim().to_owned();
    }
    let (code, comment) = line.split_once(" // ").unwrap_or((line, ""));
    // A quote within a text does not end it.
    let code = code.replace("\\\"", "'");
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
            let name = function_head(line);
            if let (Some((line, word)), Some(name), false) = (first.take(), name, tests) {
                all.push((line, name.to_owned(), word));
            }
            (first, tests) = (None, false);
        }
    }
    all
}

/// Returns the name and the number of lines of each function of a source file that has a body, except of tests.
fn lengths_of_functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let closing = |at: usize| {
        let of_same_depth =
            |line: &&str| indent(line) == indent(lines[at]) && line.trim_start().starts_with('}');
        lines[at..].iter().position(of_same_depth).map_or(lines.len(), |n| at + n)
    };
    let (mut all, mut at, mut is_test) = (Vec::new(), 0, false);
    while at < lines.len() {
        let line = lines[at].trim();
        if line.starts_with("#[") {
            is_test |= line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test");
            at += 1;
            continue;
        }
        if std::mem::take(&mut is_test) && line.contains("mod ") && line.ends_with('{') {
            at = closing(at);
        }
        if let Some(name) = function_head(lines[at].trim()) {
            // A signature without a body ends in a semicolon.
            let ends = |line: &&&str| line.ends_with('{') || line.ends_with('}') || line.ends_with(';');
            let body = lines[at..].iter().find(ends).copied().unwrap_or_default();
            match body.chars().last() {
                Some('{') => all.push((name.to_owned(), closing(at) - at + 1)),
                Some('}') => all.push((name.to_owned(), 1)),
                _ => {}
            }
        }
        at += 1;
    }
    all
}

/// Returns the name of the function whose head the line is.
fn function_head(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("fn ")?;
    let is_modifier = |word: &str| {
        ["pub", "const", "async"].contains(&word) || word.starts_with("pub(") || word.ends_with(')')
    };
    before.split_whitespace().all(is_modifier).then(|| words(rest).next())?
}

/// Returns the numbers behind the word "invariant" or "invariants".
fn cited_invariants(text: &str) -> Vec<usize> {
    let text = text.to_lowercase();
    let lists = text.split("invariant").skip(1).map(|rest| rest.trim_start_matches('s'));
    let lists = lists.filter(|rest| rest.starts_with(' ')).map(|rest| rest.split(['.', ';', ')']).next());
    let numbers = |list: Option<&str>| -> Vec<usize> {
        let list = words(list.unwrap_or_default()).take_while(|word| is_number(word) || *word == "and");
        list.filter_map(|word| word.parse().ok()).collect()
    };
    lists.flat_map(numbers).collect()
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
    // A link is another name of a file that is read where it is.
    for entry in entries(folder).into_iter().filter(|entry| !entry.is_symlink()) {
        // A build leaves its files beside the manifest.
        let is_built = entry.ends_with("target") && folder.join("Cargo.toml").exists();
        if entry.is_dir() && !is_built {
            walk(&entry, files);
        } else if entry.is_file() && is_text(&entry) {
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

/// Returns the targets of all links: those in the text, and the definitions that links refer to by name.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let inline = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let defined =
        text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: ")).map(|(_, target)| target);
    let defined = defined.filter(|target| !target.contains(' '));
    inline.chain(defined)
}

/// Returns the texts between backticks, each within a line.
fn spans(text: &str) -> impl Iterator<Item = &str> {
    outside_of_code(text).flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Returns the lines outside of code blocks.
fn outside_of_code(text: &str) -> impl Iterator<Item = &str> {
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
