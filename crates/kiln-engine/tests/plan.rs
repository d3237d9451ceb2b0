//! Plans of small manifests against caches that hold this or that.

use std::collections::HashSet;

use kiln_api::module::Modules;
use kiln_engine::manifest::{Id, Manifest, load};
use kiln_engine::plan::{Cached, PlanError, Request, plan};
use serde_json::json;

const NO_MODULES: Modules = Modules {
    stages: &[],
    assemblers: &[],
    sources: &[],
    inputs: &[],
    devices: &[],
    mounts: &[],
    runners: &[],
};

#[derive(Default)]
struct Cache {
    objects: HashSet<String>,
    items: HashSet<&'static str>,
}

impl Cached for Cache {
    fn object(&self, id: &Id, _recipe: &str) -> bool {
        self.objects.contains(id.as_str())
    }

    fn item(&self, _source: &str, checksum: &str) -> bool {
        self.items.contains(checksum)
    }
}

fn manifest() -> Manifest {
    let files = |items: &[&str]| json!({"packages": {"type": "org.osbuild.files", "origin": "org.osbuild.source", "references": items}});
    let document = json!({
        "version": "2",
        "sources": {"org.osbuild.curl": {"items": {"sha256:a": "a", "sha256:b": "b", "sha256:c": "c", "sha256:unused": "u"}}},
        "pipelines": [
            {"name": "build", "stages": [{"type": "org.kiln.deb", "inputs": files(&["sha256:a", "sha256:b"])}]},
            {"name": "other", "stages": [{"type": "org.osbuild.noop", "options": {"unused": true}}]},
            {"name": "tree", "build": "name:build", "stages": [
                {"type": "org.kiln.deb", "inputs": files(&["sha256:b", "sha256:c"])},
                {"type": "org.osbuild.hostname", "options": {"hostname": "kiln"}},
            ]},
            {"name": "image", "build": "name:build", "stages": [
                {"type": "org.osbuild.copy", "inputs": {"tree": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": ["name:tree"]}}},
            ]},
        ],
    });
    load(&document.to_string()).expect("a valid manifest")
}

fn planned(cache: &Cache, exports: &[&str]) -> String {
    let request =
        Request { exports: exports.iter().map(|name| (*name).to_owned()).collect(), ..Request::default() };
    plan(&manifest(), &NO_MODULES, &request, cache).expect("a plan").to_string()
}

#[test]
fn an_empty_cache_means_everything_that_the_export_needs_and_nothing_else() {
    insta::assert_snapshot!(planned(&Cache::default(), &["image"]), @r"
    fetch   org.osbuild.curl: 2 items, size unknown (for `build`)
    fetch   org.osbuild.curl: 1 item, size unknown (for `tree`)
    build   `build` bafcb10338f1: 1 stage, the host's runner (build root of `image`, build root of `tree`)
    build   `tree` e16229e8335f: 2 stages, the host's runner (input of `org.osbuild.copy` in `image`)
    build   `image` 7daf982ac558: 1 stage, the host's runner (requested)
    export  `image` 7daf982ac558
    ");
}

#[test]
fn a_cached_tree_needs_neither_its_sources_nor_its_stages() {
    let manifest = manifest();
    let tree = manifest.pipelines["tree"].id().expect("an id").to_string();
    let cache = Cache { objects: HashSet::from([tree]), ..Cache::default() };
    insta::assert_snapshot!(planned(&cache, &["image"]), @r"
    fetch   org.osbuild.curl: 2 items, size unknown (for `build`)
    cached  `tree` e16229e8335f (input of `org.osbuild.copy` in `image`)
    build   `build` bafcb10338f1: 1 stage, the host's runner (build root of `image`)
    build   `image` 7daf982ac558: 1 stage, the host's runner (requested)
    export  `image` 7daf982ac558
    ");
}

#[test]
fn a_build_resumes_after_the_last_cached_stage() {
    let manifest = manifest();
    let first = manifest.pipelines["tree"].stages[0].id.to_string();
    let cache = Cache { objects: HashSet::from([first]), items: HashSet::from(["sha256:a"]) };
    insta::assert_snapshot!(planned(&cache, &["tree"]), @r"
    fetch   org.osbuild.curl: 1 item, size unknown, 1 cached (for `build`)
    build   `build` bafcb10338f1: 1 stage, the host's runner (build root of `tree`)
    build   `tree` e16229e8335f: 1 stage after 1 cached, the host's runner (requested)
    export  `tree` e16229e8335f
    ");
}

#[test]
fn a_finished_export_needs_nothing() {
    let manifest = manifest();
    let image = manifest.pipelines["image"].id().expect("an id").to_string();
    let cache = Cache { objects: HashSet::from([image]), ..Cache::default() };
    insta::assert_snapshot!(planned(&cache, &["image"]), @r"
    cached  `image` 7daf982ac558 (requested)
    export  `image` 7daf982ac558
    ");
}

#[test]
fn everything_can_be_prefetched() {
    let request = Request { everything: true, ..Request::default() };
    let plan = plan(&manifest(), &NO_MODULES, &request, &Cache::default()).expect("a plan");
    insta::assert_snapshot!(plan.to_string(), @r"
    fetch   org.osbuild.curl: 4 items, size unknown (for everything)
    ");
}

#[test]
fn an_unknown_export_names_what_there_is() {
    let request = Request { exports: vec!["imag".to_owned()], ..Request::default() };
    let error = plan(&manifest(), &NO_MODULES, &request, &Cache::default()).expect_err("unknown");
    let known = ["build", "other", "tree", "image"].map(str::to_owned).to_vec();
    assert_eq!(error, PlanError::UnknownPipeline { name: "imag".to_owned(), known });
}

/// A request for exports in the reference's order.
fn sources_first(exports: &[&str]) -> Request {
    let exports = exports.iter().map(|name| (*name).to_owned()).collect();
    Request { exports, sources_first: true, ..Request::default() }
}

#[test]
fn sources_can_be_fetched_first() {
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        // Items of all pipelines in one download, in the manifest's order, and nothing that no stage needs.
        (&["image"], &["sha256:a", "sha256:b", "sha256:c"], &["build", "tree", "image"]),
        (&["build"], &["sha256:a", "sha256:b"], &["build"]),
        // A source that has nothing to do is there too.
        (&["other"], &[], &["other"]),
    ];
    for (exports, items, builds) in cases {
        let manifest = manifest();
        let cache = Cache { items: HashSet::from(["sha256:b"]), ..Cache::default() };
        let plan = plan(&manifest, &NO_MODULES, &sources_first(exports), &cache).expect("a plan");
        let [fetch] = plan.fetches.as_slice() else { panic!("{exports:?}: {:?}", plan.fetches) };
        let mut planned: Vec<&str> = fetch.items.iter().map(|item| item.checksum.as_str()).collect();
        planned.extend(fetch.present.iter().map(String::as_str));
        planned.sort_unstable();
        assert_eq!(planned, *items, "{exports:?}");
        assert_eq!(fetch.present.len(), usize::from(items.contains(&"sha256:b")), "{exports:?}");
        let built: Vec<&str> = plan.builds.iter().map(|build| build.pipeline.as_str()).collect();
        assert_eq!(built, *builds, "{exports:?}");
        assert!(plan.builds.iter().all(|build| build.fetches == [0]), "{exports:?}");
    }
}

#[test]
fn everything_can_be_prefetched_source_by_source() {
    let request = Request { everything: true, ..sources_first(&[]) };
    let plan = plan(&manifest(), &NO_MODULES, &request, &Cache::default()).expect("a plan");
    assert_eq!(plan.fetches.len(), 1);
    assert_eq!(plan.fetches[0].items.len(), 4);
}

#[test]
fn pipelines_can_be_built_in_the_references_order() {
    let input = |of: &str| json!({"tree": {"type": "org.osbuild.tree", "origin": "org.osbuild.pipeline", "references": [format!("name:{of}")]}});
    let noop = |name: &str| json!({"name": name, "stages": [{"type": "org.osbuild.noop", "options": {"name": name}}]});
    let document = json!({"version": "2", "pipelines": [noop("first"), noop("second"), noop("lone"), {"name": "image", "stages": [
        {"type": "org.osbuild.copy", "inputs": input("first")},
        {"type": "org.osbuild.copy", "inputs": input("second")},
    ]}]});
    let manifest = load(&document.to_string()).expect("a valid manifest");
    let built = |request: &Request| -> Vec<String> {
        let plan = plan(&manifest, &NO_MODULES, request, &Cache::default()).expect("a plan");
        plan.builds.into_iter().map(|build| build.pipeline).collect()
    };
    let request = sources_first(&["image", "lone"]);
    assert_eq!(built(&request), ["second", "first", "image", "lone"]);
    assert_eq!(built(&Request { sources_first: false, ..request }), ["first", "second", "image", "lone"]);
}
