//! What the page on recipes says, run as printed.

use super::{in_repository, put_model_and_data, read_page};
use crate::common::Workspace;

#[test]
fn the_recipe_of_the_page_works_as_printed() {
    let workspace = Workspace::new();
    put_model_and_data(&workspace);
    let page = read_page(in_repository("docs/recipes.md"));
    let [recipe, sweep, transcript] = &page.blocks[..] else {
        panic!("{} blocks", page.blocks.len());
    };
    let languages = (recipe.language.as_str(), sweep.language.as_str());
    assert_eq!(languages, ("python", "toml"));
    let [recipe, sweep, transcript] = [recipe, sweep, transcript].map(|block| &block.text);
    assert!(recipe.lines().count() <= 12, "it is called short");
    workspace.write("recipes/depth.py", recipe);
    workspace.write("depth.toml", sweep);

    let (first, rest) = transcript.split_once('\n').unwrap();
    let (second, printed) = rest.split_once('\n').unwrap();
    assert_eq!(first, "$ sae-run recipes request depth.toml > request.json");
    let request = workspace.run(&["recipes", "request", "depth.toml"]);
    workspace.write("request.json", request.succeeds().stdout);
    let command: Vec<_> = second.split_whitespace().skip(2).collect();
    let outcome = workspace.run(&command).succeeds();
    assert_eq!(outcome.stdout, *printed);

    let spoilt = recipe.replace("vary.get(\"stride\", 10)", "vary[\"strides\"]");
    workspace.write("recipes/depth.py", spoilt);
    let said = "depth.py:8: KeyError: 'strides'";
    assert!(page.prose.contains(said));
    workspace.run(&command).exits(2).remarks(&[said]);
}
