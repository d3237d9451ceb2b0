use super::*;

const ONE: &str = "1111111111111111111111111111111111111111111111111111111111111111";

fn digest(text: &str) -> Digest {
    Digest::parse(text).expect("a digest")
}

fn put(root: &Path, name: &str) {
    let path = root.join(place(name));
    fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    fs::write(path, name).expect("written");
}

#[test]
fn a_repository_is_made_once_and_what_it_lacks_is_added() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let path = scratch.path().join("repo");
    let repository = Repository::create(&path).expect("made");
    assert!(repository.is_archive().expect("readable"));
    let config = fs::read_to_string(path.join("config")).expect("readable");
    assert_eq!(config, "[core]\nrepo_version=1\nmode=archive-z2\n\n[repo]\nlocking=true\n");
    fs::remove_dir_all(path.join("tmp")).expect("removed");
    fs::write(path.join("config"), "[core]\nmode=bare\n").expect("written");
    let repository = Repository::create(&path).expect("made");
    assert!(path.join("tmp/cache").is_dir());
    assert!(!repository.is_archive().expect("readable"), "the configuration was replaced");
    let names: Vec<_> = fs::read_dir(&path).expect("readable").collect();
    assert_eq!(names.len(), 6, "something was left: {names:?}");

    let private = Repository::create_private(scratch.path().join("own"), "[core]\n").expect("made");
    let mode = fs::metadata(private.path().join("config")).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn modes_are_read_from_their_section() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let cases = [
        ("[core]\nmode=archive-z2\n", true),
        ("[core]\n mode = archive\n", true),
        ("[core]\nmode=bare-user\n", false),
        ("[core]\nmode=archive-z2\nparent=/x\n", false),
        ("[remote \"x\"]\nmode=archive-z2\n[core]\nmode=bare\n", false),
        ("[core]\n[x]\nmode=archive-z2\n", false),
    ];
    for (config, expected) in cases {
        fs::write(scratch.path().join("config"), config).expect("written");
        assert_eq!(Repository::at(scratch.path()).is_archive().expect("readable"), expected, "{config}");
    }
}

#[test]
fn a_digest_has_64_digits() {
    for text in ["", "1111", &ONE.replace('1', "A"), &ONE.replace('1', "g"), &format!("{ONE}1"), "../../x"] {
        assert_eq!(Digest::parse(text), None, "{text}");
    }
}

#[test]
fn objects_are_adopted_and_the_commit_is_whole_then() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let cache = Repository::create(scratch.path().join("cache")).expect("made");
    let own = Repository::create(scratch.path().join("own")).expect("made");
    let commit = digest(ONE);
    for kind in ["filez", "dirtree", "dirmeta", "commit", "commitmeta", "other"] {
        put(&own.path.join("objects"), &name(&commit, kind));
    }
    put(&cache.path.join("objects"), &name(&commit, "commit"));
    cache.mark(&commit).expect("marked");
    assert!(!cache.has(&commit), "it is marked");
    cache.adopt(&own).expect("adopted");
    cache.unmark(&commit).expect("unmarked");
    cache.unmark(&commit).expect("there is no mark");
    assert!(cache.has(&commit));
    for kind in ["filez", "dirtree", "dirmeta", "commitmeta"] {
        assert!(cache.object(&name(&commit, kind)).exists(), "{kind}");
    }
    assert!(!cache.object(&name(&commit, "other")).exists());
}

#[test]
fn what_a_broken_pull_brought_is_kept_without_its_commit() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let cache = Repository::create(scratch.path().join("cache")).expect("made");
    let own = Repository::create(scratch.path().join("own")).expect("made");
    let commit = digest(ONE);
    for kind in ["filez", "dirtree", "commit"] {
        put(&own.path.join("tmp/staging-boot-random"), &name(&commit, kind));
    }
    put(&own.path.join("objects"), &name(&commit, "dirmeta"));
    put(&own.path.join("tmp/other"), &name(&commit, "commitmeta"));
    cache.salvage(&own).expect("salvaged");
    let there = |kind: &str| cache.object(&name(&commit, kind)).exists();
    assert!(there("filez") && there("dirtree") && there("dirmeta"));
    assert!(!there("commit") && !there("commitmeta"));
}

#[test]
fn names_are_those_that_the_tool_takes() {
    let scratch = tempfile::tempdir().expect("tempdir");
    let repository = Repository::create_plain(scratch.path()).expect("made");
    let commit = digest(ONE);
    for (reference, path) in [("a", "heads/a"), ("a-b/c_d.e", "heads/a-b/c_d.e"), ("r:x/y", "remotes/r/x/y")]
    {
        repository.name(reference, &commit).expect("named");
        let text = fs::read_to_string(scratch.path().join("refs").join(path)).expect("written");
        assert_eq!(text, format!("{ONE}\n"));
    }
    for reference in ["", "/a", "a/", "a//b", "..", "../x", "a b", "r:", ":x", "r/s:x", "a\n", "ü", "a:b:c"]
    {
        let error = repository.name(reference, &commit).expect_err("not allowed").to_string();
        assert!(error.contains("OSTree allows"), "{reference}: {error}");
    }
    let error = repository.name("a", &commit).expect_err("there is one").to_string();
    assert!(error.contains("more than once"), "{error}");
    repository.name("a/b", &commit).expect_err("`a` is no directory");
}
