<?php

/**
 * xsd.php MAGENTO MODULE: every XML file of the module against the schema that it names, found by Magento's own resolver.
 */
declare(strict_types=1);

use Magento\Framework\Config\Dom\UrnResolver;

[, $magento, $module] = $argv;
require "$magento/app/autoload.php";

$resolver = new UrnResolver();
libxml_use_internal_errors(true);
libxml_set_external_entity_loader([$resolver, 'registerEntityLoader']);

$files = [];
foreach (new RecursiveIteratorIterator(new RecursiveDirectoryIterator($module, FilesystemIterator::SKIP_DOTS)) as $file) {
    // phpunit.xml is not Magento's.
    if ($file->getExtension() === 'xml' && !str_contains($file->getPathname(), '/Test/')) {
        $files[] = $file->getPathname();
    }
}
sort($files);
$bad = 0;
foreach ($files as $file) {
    libxml_clear_errors();
    $document = new DOMDocument();
    $document->load($file);
    $said = array_map(static fn (LibXMLError $error): string => "$error->line: " . trim($error->message), libxml_get_errors());
    if (!$said) {
        $schema = $document->documentElement->getAttributeNS(
            'http://www.w3.org/2001/XMLSchema-instance',
            'noNamespaceSchemaLocation'
        );
        if ($schema === '') {
            $said = ['names no schema'];
        } else {
            $document->schemaValidate($resolver->getRealPath($schema));
            $said = array_map(
                static fn (LibXMLError $error): string => "$error->line: " . trim($error->message),
                libxml_get_errors()
            );
        }
    }
    foreach ($said as $line) {
        $bad++;
        printf("%s:%s\n", substr($file, strlen($module) + 1), $line);
    }
}
printf("%d files, %d faults\n", count($files), $bad);
exit($bad || !$files ? 1 : 0);
