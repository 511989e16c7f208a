//! The schemas of users' kinds: checked when a kind is declared, and loaded when one is needed.

use std::sync::Arc;

use starlane_core::{Base, Code, Point, Problem, PropertyChange, Resource, Target};

use super::{Inner, Op};
use crate::error::Error;
use crate::schema::{Schema, Versions};

impl Inner {
    /// Before a kind is declared, its schema must be one.
    pub(super) async fn check_declaration(&self, op: &Op) -> Result<(), Error> {
        let (point, changes) = match op {
            Op::Create(create) if create.kind.base == Base::Kind => match &create.target {
                Target::Point(point) => (point, &create.changes),
                Target::Sequence(sequence) => (&sequence.parent, &create.changes),
            },
            Op::Set { point, changes, .. }
                if self.view.read().get(point).is_some_and(|resource| resource.kind.base == Base::Kind) =>
            {
                (point, changes)
            }
            _ => return Ok(()),
        };
        for change in changes {
            if let PropertyChange::Set { key, value, .. } = change
                && key.as_str() == "schema"
            {
                self.read_schema(point, value.as_point()).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn load_schema(&self, declaration: &Arc<Resource>) -> Result<(), Error> {
        let source = declaration.point_property("schema");
        let versions = {
            let view = self.view.read();
            Versions::of(declaration, source.as_ref().and_then(|source| view.get(source)))
        };
        let schema = self.read_schema(&declaration.point, source).await?;
        self.compiled.insert(declaration.point.clone(), versions, schema);
        Ok(())
    }

    async fn read_schema(&self, declaration: &Point, source: Option<Point>) -> Result<Schema, Error> {
        let unusable =
            |problem: Box<Problem>| Error::SchemaUnusable { declaration: declaration.clone(), problem };
        let source = source.ok_or_else(|| {
            let what = "`schema` does not name a point";
            unusable(Box::new(Problem::new(Code::PropertyValue, what)))
        })?;
        let schemas = self.schemas.get().ok_or_else(|| {
            let what = "this registry cannot read schemas";
            unusable(Box::new(Problem::new(Code::Unsupported, what)))
        })?;
        let text = schemas.read(source).await.map_err(|problem| unusable(Box::new(problem)))?;
        Schema::compile(&text).map_err(unusable)
    }
}
