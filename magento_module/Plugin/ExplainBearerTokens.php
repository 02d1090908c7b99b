<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Plugin;

use Magento\Framework\App\Config\ScopeConfigInterface;
use Magento\Framework\Exception\AuthorizationException;
use Magento\Framework\Phrase;
use Magento\Framework\Webapi\Rest\Request;
use Magento\Webapi\Controller\Rest\RequestValidator;

/**
 * Says why Magento does not accept an integration's token on Tocsin's routes: by default it takes none as bearer.
 */
class ExplainBearerTokens
{
    private const SETTING = 'oauth/consumer/enable_integration_as_bearer';
    private const ROUTES = '/V1/tocsin/';

    private Request $request;
    private ScopeConfigInterface $config;

    public function __construct(Request $request, ScopeConfigInterface $config)
    {
        $this->request = $request;
        $this->config = $config;
    }

    /**
     * @throws AuthorizationException
     */
    public function aroundValidate(RequestValidator $subject, callable $proceed): void
    {
        try {
            $proceed();
        } catch (AuthorizationException $refusal) {
            $header = $this->request->getHeader('Authorization');
            if (strpos((string)$this->request->getPathInfo(), self::ROUTES) === false
                || !is_string($header) || stripos($header, 'bearer ') !== 0
                || $this->config->isSetFlag(self::SETTING)
            ) {
                throw $refusal;
            }
            throw new AuthorizationException(new Phrase($refusal->getMessage() . ' ' . (string)__(
                'Integration tokens are accepted as bearer tokens only while %1 is on:'
                . ' bin/magento config:set %1 1',
                self::SETTING
            )), $refusal);
        }
    }
}
