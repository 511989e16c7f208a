//! The tutorial, typed exactly as it is written.

use tests::{book, root};

#[test]
fn lesson_1_a_site_from_a_bundle() {
    book::run(&root().join("docs/tutorial/1-site.md"));
}

#[test]
fn lesson_2_an_app_behind_the_bind() {
    book::run(&root().join("docs/tutorial/2-app.md"));
}

#[test]
fn lesson_3_a_dynamic_app_from_a_script() {
    book::run(&root().join("docs/tutorial/3-dynamic.md"));
}

#[test]
fn all_lessons_in_the_older_spelling() {
    book::run(&root().join("docs/tutorial/older-spelling.md"));
}
