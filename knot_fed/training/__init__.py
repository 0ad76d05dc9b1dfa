"""Teachers and students: trained, asked, distilled and measured."""
