//! The sweeps on the pages can be planned, and parts of a sweep can be added to one.

use super::{in_repository, pages, put_model_and_data, read_page};
use crate::common::{Workspace, tiny_sweep};

/// The tiny sweep, with the settings of `part` replacing those of the sweep.
fn tiny_sweep_over(part: &toml::Table) -> toml::Table {
    let mut sweep: toml::Table = tiny_sweep().parse().unwrap();
    for (section, settings) in part {
        let section = sweep
            .entry(section)
            .or_insert_with(|| toml::Table::new().into());
        let settings = settings.as_table().unwrap().clone();
        section.as_table_mut().unwrap().extend(settings);
    }
    sweep
}

#[test]
fn sweeps_on_the_pages_are_accepted() {
    let workspace = Workspace::new();
    put_model_and_data(&workspace);
    // The recipe that one of the sweeps names.
    let recipes = read_page(in_repository("docs/recipes.md"));
    workspace.write("recipes/depth.py", &recipes.blocks[0].text);
    let mut n_seen = 0;
    for page in pages() {
        for block in page.blocks.iter().filter(|block| block.language == "toml") {
            let table: toml::Table = block.text.parse().unwrap();
            let text = if table.contains_key("name") {
                block.text.clone()
            } else {
                tiny_sweep_over(&table).to_string()
            };
            workspace.write("sweep.toml", text);
            println!("{}:\n{}", page.path.display(), block.text);
            workspace.run(&["plan", "sweep.toml"]).succeeds();
            n_seen += 1;
        }
    }
    assert!(n_seen >= 3, "{n_seen} sweeps were found");
}
