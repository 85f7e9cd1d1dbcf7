// Reads the program, removes its file, and runs it as a script, which no part of it can leave but by
// its end or an error; the proof is cut from its text, and printed behind it.
const fs = require('fs');
const Module = require('module');
const { Script, constants } = require('vm');

Object.freeze(require('assert'));
const name = '/tmp/main.js';
const main = new Module(name, null);
main.filename = name;
main.paths = [];
process.mainModule = main;
process.argv[1] = name;
Object.assign(globalThis, {
  require: Module.createRequire(name),
  module: main,
  exports: main.exports,
  __filename: name,
  __dirname: '/tmp',
});
(() => {
  const whole = fs.readFileSync(name, 'utf8');
  const [seal, left, right] = /;?\s*"(\w+)" \+ "(\w+)";\s*$/.exec(whole);
  const text = whole.slice(0, -seal.length);
  const print = fs.writeSync;
  fs.unlinkSync(name);
  const imported = (module) => import(module); // what Node before 20.12 takes
  const importModuleDynamically = constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER ?? imported;
  new Script(text, { filename: name, importModuleDynamically }).runInThisContext();
  print(1, left + right);
})();
