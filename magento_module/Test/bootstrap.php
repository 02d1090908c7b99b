<?php

/**
 * Lets the module's classes run without Magento: its interfaces come from stubs/, its generated factories from here.
 */

declare(strict_types=1);

use Magento\Framework\Phrase;

spl_autoload_register(static function (string $class): void {
    $module = 'Tocsin\\BreachNotification\\';
    $file = strncmp($class, $module, strlen($module)) === 0
        ? dirname(__DIR__) . '/' . str_replace('\\', '/', substr($class, strlen($module))) . '.php'
        : __DIR__ . '/stubs/' . str_replace('\\', '/', $class) . '.php';
    if (is_file($file)) {
        require $file;
        return;
    }
    // Magento generates <Interface>Factory, which makes what di.xml prefers for the interface.
    if (preg_match('/\A(Tocsin\\\\BreachNotification\\\\.*)\\\\(\w+Interface)Factory\z/', $class, $parts)) {
        $wanted = $parts[1] . '\\' . $parts[2];
        $preferred = null;
        foreach (simplexml_load_file(dirname(__DIR__) . '/etc/di.xml')->preference as $preference) {
            $preferred = (string)$preference['for'] === $wanted ? (string)$preference['type'] : $preferred;
        }
        if ($preferred !== null) {
            eval("namespace $parts[1]; class $parts[2]Factory { public function create() { return new \\$preferred(); } }");
        }
    }
});

if (!function_exists('__')) {
    function __($text, ...$arguments): Phrase
    {
        return new Phrase($text, isset($arguments[0]) && is_array($arguments[0]) ? $arguments[0] : $arguments);
    }
}
