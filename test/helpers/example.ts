import { readFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";
import { ROOT } from "./package";

/** The first example in the doc comments of a file, without the comment's asterisks. */
export function exampleIn(file: string): string {
  const [, example] =
    /@example\n \* ```ts\n(.*?) \* ```/s.exec(readFileSync(join(ROOT, file), "utf8")) ?? [];
  if (example === undefined) throw new Error(`no example in ${file}`);
  return example.replace(/^ \* ?/gm, "");
}

/**
 * Compiles a program that lies in the package's folder and imports the package by its name, as strict
 * TypeScript.
 * @returns its JavaScript, a CommonJS module.
 * @throws Error with what the compiler says.
 */
export function compileExample(source: string): string {
  const file = join(ROOT, "example.ts");
  const options: ts.CompilerOptions = {
    module: ts.ModuleKind.Node20,
    target: ts.ScriptTarget.ES2022,
    lib: ["lib.es2023.d.ts", "lib.esnext.disposable.d.ts"],
    types: ["node"],
    strict: true,
    skipLibCheck: true,
  };
  const host = ts.createCompilerHost(options);
  const { fileExists, readFile } = host;
  host.fileExists = (name) => name === file || fileExists(name);
  host.readFile = (name) => (name === file ? source : readFile(name));
  const program = ts.createProgram([file], options, host);
  const problems = ts.getPreEmitDiagnostics(program);
  if (problems.length > 0) throw new Error(ts.formatDiagnostics(problems, host));
  let output = "";
  program.emit(undefined, (_, text) => (output = text));
  return output;
}
